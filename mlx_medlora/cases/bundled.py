"""The 24 cases of `lora_training/`, and the function that writes that directory.

Twelve clinical situations, three for each modality. Each is told twice in the same words about two patients:
once beside an image that shows the finding, where the treatment is right, and once beside an image that does
not, where it is an error. The text alone therefore decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_medlora.cases import phantoms
from mlx_medlora.cases.card import CORRECT_ANSWER, INSTRUCTION, case_text
from mlx_medlora.cases.schema import Case, Metadata, Severity
from mlx_medlora.cases.statistics import Statistics
from mlx_medlora.cases.vignettes import ErrorType
from mlx_medlora.cases.writing import IMAGES, write_dataset

Patient = tuple[int, str]  # age, gender

_SEEDS = {"xray": 12, "histopathology": 5, "mri": 9, "ultrasound": 21}  # drawings that show each case well
_VALIDATION_SITUATION = 3  # of the three of each modality; its two cases are both unseen in training


@dataclass(frozen=True)
class Situation:
    """A finding with the treatment it calls for, and the error that treatment is without it."""

    modality: str
    number: int  # 1 to 3 within its modality
    topic: str
    finding: str
    treatment: str
    error: str
    error_type: ErrorType
    severity: Severity
    patient_without: Patient
    patient_with: Patient

    def erroneous(self) -> Case:
        """The treatment beside an image that does not show the finding."""
        name = f"{self.modality}_{self.number:03d}_{self.topic}_{self.error_type}"
        return self._case(name, False, f"ERROR - {self.error}", self.error_type, self.severity)

    def correct(self) -> Case:
        """The same treatment beside an image that shows the finding."""
        name = f"{self.modality}_{self.number + 3:03d}_{self.topic}_appropriate_treatment"
        return self._case(name, True, CORRECT_ANSWER, "none", "none")

    def _case(self, name: str, shown: bool, output: str, error_type: str, severity: str) -> Case:
        age, gender = self.patient_with if shown else self.patient_without
        image = image_name(self.modality, shown)
        known = {"modality": self.modality, "error_type": error_type, "severity": severity}
        return Case(
            id=name,
            instruction=INSTRUCTION,
            input=case_text(age, gender, self.finding, self.treatment),
            output=output,
            image_file=image,
            image_path=f"{IMAGES}/{image}",
            metadata=Metadata.model_validate({**known, "image_has_finding": shown}),
        )


SITUATIONS: tuple[Situation, ...] = (
    Situation(
        modality="xray",
        number=1,
        topic="covid",
        finding="COVID-19 pneumonia with focal airspace consolidation on chest X-ray",
        treatment="Hospital admission, dexamethasone 6 mg daily for 10 days and IV remdesivir",
        error="Lungs are clear; steroid and antiviral therapy for COVID-19 pneumonia is overtreatment",
        error_type="overtreatment",
        severity="high",
        patient_without=(58, "Male"),
        patient_with=(63, "Female"),
    ),
    Situation(
        modality="xray",
        number=2,
        topic="pneumonia",
        finding="Dense consolidation with air bronchograms, community-acquired pneumonia",
        treatment="Ceftriaxone 1 g IV daily plus azithromycin 500 mg daily for 5 days",
        error="No consolidation is seen; intravenous antibiotics are overtreatment",
        error_type="overtreatment",
        severity="moderate",
        patient_without=(71, "Female"),
        patient_with=(66, "Male"),
    ),
    Situation(
        modality="xray",
        number=3,
        topic="bronchoscopy",
        finding="Persistent unilateral consolidation after a full course of antibiotics",
        treatment="Flexible bronchoscopy with bronchoalveolar lavage",
        error="The lungs have cleared; bronchoscopy is an unnecessary procedure",
        error_type="unnecessary_procedure",
        severity="moderate",
        patient_without=(49, "Male"),
        patient_with=(54, "Male"),
    ),
    Situation(
        modality="histopathology",
        number=1,
        topic="excision",
        finding="Invasive breast carcinoma with crowded, hyperchromatic nuclei",
        treatment="Wide local excision with sentinel lymph node biopsy",
        error="Benign tissue without atypia; cancer surgery is an unnecessary procedure",
        error_type="unnecessary_procedure",
        severity="critical",
        patient_without=(57, "Female"),
        patient_with=(52, "Female"),
    ),
    Situation(
        modality="histopathology",
        number=2,
        topic="chemotherapy",
        finding="High-grade carcinoma with marked nuclear pleomorphism",
        treatment="Port placement and combination chemotherapy under medical oncology",
        error="No malignant cells are seen; chemotherapy is overtreatment",
        error_type="overtreatment",
        severity="critical",
        patient_without=(61, "Male"),
        patient_with=(67, "Male"),
    ),
    Situation(
        modality="histopathology",
        number=3,
        topic="radiotherapy",
        finding="Poorly differentiated carcinoma in dense, atypical cell nests",
        treatment="Definitive chemoradiotherapy over 6 weeks",
        error="Regular nuclei and no carcinoma; chemoradiotherapy is overtreatment",
        error_type="overtreatment",
        severity="critical",
        patient_without=(70, "Female"),
        patient_with=(64, "Male"),
    ),
    Situation(
        modality="mri",
        number=1,
        topic="edema",
        finding="Hyperintense intra-axial mass with surrounding vasogenic edema on FLAIR",
        treatment="Dexamethasone 4 mg IV every 6 hours and urgent neurosurgical review",
        error="Normal brain without mass or edema; high-dose steroids are overtreatment",
        error_type="overtreatment",
        severity="high",
        patient_without=(46, "Female"),
        patient_with=(51, "Female"),
    ),
    Situation(
        modality="mri",
        number=2,
        topic="craniotomy",
        finding="Solitary hemispheric mass suspicious for high-grade glioma",
        treatment="Craniotomy with maximal safe resection",
        error="No intracranial mass is seen; craniotomy is an unnecessary procedure",
        error_type="unnecessary_procedure",
        severity="critical",
        patient_without=(62, "Male"),
        patient_with=(55, "Female"),
    ),
    Situation(
        modality="mri",
        number=3,
        topic="metastasis",
        finding="Single bright cerebral lesion, presumed metastasis from known lung cancer",
        treatment="Stereotactic radiosurgery to the lesion, 20 Gy in one fraction",
        error="No cerebral lesion is seen; radiosurgery is overtreatment",
        error_type="overtreatment",
        severity="critical",
        patient_without=(59, "Male"),
        patient_with=(65, "Male"),
    ),
    Situation(
        modality="ultrasound",
        number=1,
        topic="biopsy",
        finding="Irregular solid hypoechoic breast mass, BI-RADS 4",
        treatment="Ultrasound-guided core needle biopsy of the mass",
        error="No mass is seen; core needle biopsy is an unnecessary procedure",
        error_type="unnecessary_procedure",
        severity="moderate",
        patient_without=(44, "Female"),
        patient_with=(39, "Female"),
    ),
    Situation(
        modality="ultrasound",
        number=2,
        topic="excision",
        finding="Enlarging hypoechoic breast mass, core biopsy inconclusive",
        treatment="Diagnostic surgical excision of the mass",
        error="Normal breast tissue without a mass; surgical excision is an unnecessary procedure",
        error_type="unnecessary_procedure",
        severity="high",
        patient_without=(48, "Female"),
        patient_with=(53, "Female"),
    ),
    Situation(
        modality="ultrasound",
        number=3,
        topic="chemotherapy",
        finding="Hypoechoic breast mass staged as locally advanced carcinoma",
        treatment="Neoadjuvant doxorubicin and cyclophosphamide, then paclitaxel",
        error="No breast mass is seen; neoadjuvant chemotherapy is overtreatment",
        error_type="overtreatment",
        severity="critical",
        patient_without=(56, "Female"),
        patient_with=(50, "Female"),
    ),
)

_README = """# Clinical error detection: 24 cases

**The images are drawings and the patients do not exist. This is not clinical data, and nothing learned from
it may guide care.** It shows the shape of a training set and lets the whole path run on any machine. For real
work, prepare your own cases: `mlx-medlora prepare CASES --images DIR --output DIR`.

Each case gives a patient, an imaging finding as reported, a treatment and an image. The answer says whether
the treatment fits what the image shows. Twelve situations are told twice in the same words: beside an image
with the finding (CORRECT) and beside one without it (ERROR). A model that ignores the image cannot do better
than chance. The third situation of each modality is held out for validation.

The eight images are shared by training and validation, so a validation score here measures new text, not new
images. For held-out images use `mlx-medlora prepare --phantoms 600 --output DIR`.

## Fields

| field | holds |
|---|---|
| `id` | a name for the case, unique |
| `instruction` | what is asked, the same in every case |
| `input` | patient, imaging finding and treatment, in Markdown |
| `output` | `CORRECT - ...` or `ERROR - ...` with the reason |
| `image_file`, `image_path` | the image's name, and its place in this directory |
| `metadata` | `modality`, `error_type`, `severity`, `image_has_finding` |

## Measures

| name | plain meaning | target |
|---|---|---:|
| True Positive Rate | valid treatments found valid | 95 % |
| True Negative Rate | errors found | 95 % |
| False Positive Rate | valid treatments flagged as errors | under 5 % |
| Accuracy | right answers; in no modality under 85 % | 90 % |
"""


def image_name(modality: str, shows_finding: bool) -> str:
    """The file of one of the eight images."""
    return f"{modality}_{'positive' if shows_finding else 'negative'}.png"


def bundled_cases() -> dict[str, list[Case]]:
    """The cases of each split: 16 for training, 8 for validation, ordered by modality and id."""
    splits: dict[str, list[Case]] = {"train": [], "val": []}
    for modality in phantoms.MODALITIES:
        own = [situation for situation in SITUATIONS if situation.modality == modality]
        for split, held_out in (("train", False), ("val", True)):
            chosen = [each for each in own if (each.number == _VALIDATION_SITUATION) is held_out]
            splits[split] += [each.erroneous() for each in chosen] + [each.correct() for each in chosen]
    return splits


def write_bundled(output: Path) -> Statistics:
    """Write the dataset directory; the same on every run. Raises InputError where `output` is not empty."""
    return write_dataset(output, bundled_cases(), _draw_images, _README)


def _draw_images(directory: Path) -> None:
    directory.mkdir()
    for modality in phantoms.MODALITIES:
        for shown in (True, False):
            rng = np.random.default_rng([_SEEDS[modality], int(shown)])
            phantoms.draw(modality, shown, rng).save(directory / image_name(modality, shown))
