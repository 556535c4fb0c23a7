"""Text for phantom cases: a claimed finding and a treatment that fits the claim.

The claim may contradict the image. A treatment always fits the claim, so the text alone gives no hint: of the
four kinds of case (image with or without a finding, claim true or false) every claim is true half the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlx_medlora.cases.card import Label, answer, case_text

ErrorType = Literal["none", "overtreatment", "unnecessary_procedure", "undertreatment"]
Severity = Literal["none", "low", "moderate", "high", "critical"]


@dataclass(frozen=True)
class Treatment:
    """A treatment, and the error it is where the image does not bear out the claim behind it."""

    text: str
    error_type: ErrorType
    severity: Severity


@dataclass(frozen=True)
class Vocabulary:
    """What may be said about one modality: claims, and treatments that fit them."""

    positive_findings: tuple[str, ...]
    negative_findings: tuple[str, ...]
    positive_treatments: tuple[Treatment, ...]
    negative_treatments: tuple[Treatment, ...]
    genders: tuple[str, ...] = ("Female", "Male")

    def findings(self, positive: bool) -> tuple[str, ...]:
        """The phrases that claim a finding, or that deny one."""
        return self.positive_findings if positive else self.negative_findings

    def treatments(self, positive: bool) -> tuple[Treatment, ...]:
        """The treatments that fit a claimed finding, or that fit none."""
        return self.positive_treatments if positive else self.negative_treatments


def _missed(severity: Severity, *texts: str) -> tuple[Treatment, ...]:
    return tuple(Treatment(text, "undertreatment", severity) for text in texts)


VOCABULARY: dict[str, Vocabulary] = {
    "xray": Vocabulary(
        positive_findings=(
            "Focal airspace consolidation with air bronchograms",
            "Dense consolidation consistent with pneumonia",
            "Patchy unilateral airspace opacity",
            "Consolidation in one lung, infectious in appearance",
        ),
        negative_findings=(
            "Clear lungs, no focal consolidation",
            "No acute cardiopulmonary abnormality",
            "Both lungs clear, normal heart size",
            "Normal chest radiograph",
        ),
        positive_treatments=(
            Treatment("Ceftriaxone 1 g IV daily and azithromycin 500 mg daily", "overtreatment", "moderate"),
            Treatment("Admit for IV piperacillin-tazobactam", "overtreatment", "high"),
            Treatment("Amoxicillin-clavulanate 875 mg twice daily for 7 days", "overtreatment", "moderate"),
            Treatment("Bronchoscopy with bronchoalveolar lavage", "unnecessary_procedure", "high"),
        ),
        negative_treatments=_missed(
            "high",
            "No antibiotics, supportive care only",
            "Reassurance and discharge home",
            "Symptomatic care, return if worse",
        ),
    ),
    "histopathology": Vocabulary(
        positive_findings=(
            "Invasive carcinoma with crowded hyperchromatic nuclei",
            "Malignant cluster of pleomorphic nuclei",
            "High-grade carcinoma with marked nuclear atypia",
            "Dense atypical cell nests, malignant",
        ),
        negative_findings=(
            "Benign tissue, no atypia",
            "Regular, evenly spaced nuclei, no malignancy",
            "Normal architecture without dysplasia",
            "No carcinoma in this specimen",
        ),
        positive_treatments=(
            Treatment("Wide local excision with sentinel node biopsy", "unnecessary_procedure", "critical"),
            Treatment("Surgical resection with oncological margins", "unnecessary_procedure", "critical"),
            Treatment("Adjuvant chemotherapy under oncology", "overtreatment", "critical"),
            Treatment("Adjuvant radiotherapy to the tumor bed", "overtreatment", "critical"),
        ),
        negative_treatments=_missed(
            "critical",
            "No further treatment, routine follow-up",
            "Return to routine screening, no surgery",
            "Reassurance and discharge from clinic",
        ),
    ),
    "mri": Vocabulary(
        positive_findings=(
            "Hyperintense brain lesion with surrounding edema",
            "Focal intra-axial mass on FLAIR",
            "Solitary cerebral lesion suspicious for tumor",
            "Bright parenchymal lesion with mass effect",
        ),
        negative_findings=(
            "Normal brain MRI, no focal lesion",
            "No intracranial mass or abnormal signal",
            "Unremarkable brain parenchyma",
            "No abnormal FLAIR signal, normal ventricles",
        ),
        positive_treatments=(
            Treatment("Dexamethasone 4 mg every 6 hours and neurosurgical referral", "overtreatment", "high"),
            Treatment("Dexamethasone and levetiracetam, urgent admission", "overtreatment", "high"),
            Treatment("Stereotactic brain biopsy", "unnecessary_procedure", "critical"),
            Treatment("Craniotomy for tumor resection", "unnecessary_procedure", "critical"),
        ),
        negative_treatments=_missed(
            "critical",
            "Reassurance, no intervention",
            "Simple analgesia and primary care follow-up",
            "No steroids or surgery, routine clinic review",
        ),
    ),
    "ultrasound": Vocabulary(
        positive_findings=(
            "Irregular hypoechoic breast mass, BI-RADS 4",
            "Solid hypoechoic lesion with indistinct margins",
            "Suspicious hypoechoic mass in the breast",
            "Focal solid breast mass, BI-RADS 5",
        ),
        negative_findings=(
            "Normal breast ultrasound, BI-RADS 1",
            "No solid or cystic mass",
            "Normal fibroglandular tissue without mass",
            "Homogeneous breast tissue, no focal lesion",
        ),
        positive_treatments=(
            Treatment("Ultrasound-guided core needle biopsy", "unnecessary_procedure", "moderate"),
            Treatment("Vacuum-assisted biopsy with clip placement", "unnecessary_procedure", "moderate"),
            Treatment("Diagnostic surgical excision of the mass", "unnecessary_procedure", "high"),
            Treatment("Urgent breast oncology pathway for suspected cancer", "overtreatment", "moderate"),
        ),
        negative_treatments=_missed(
            "high",
            "Reassurance, routine screening interval",
            "No biopsy, annual mammography",
            "Discharge from breast clinic",
        ),
        genders=("Female",),
    ),
}


@dataclass(frozen=True)
class Vignette:
    """The written part of one phantom case."""

    age: int
    gender: str
    finding: str
    treatment: str
    label: Label
    error_type: ErrorType
    severity: Severity

    @property
    def input(self) -> str:
        """The case's Markdown."""
        return case_text(self.age, self.gender, self.finding, self.treatment)

    @property
    def output(self) -> str:
        """The case's answer."""
        return answer(self.label, self.error_type)


def vignette(modality: str, image_has_finding: bool, label: Label, rng: np.random.Generator) -> Vignette:
    """Write one case about a phantom: the claim agrees with the image where `label` is CORRECT.

    The same generator state gives the same text. Raises KeyError for a modality not in VOCABULARY.
    """
    words = VOCABULARY[modality]
    claimed = image_has_finding == (label == "CORRECT")
    findings, treatments = words.findings(claimed), words.treatments(claimed)
    finding = findings[rng.integers(len(findings))]
    treatment = treatments[rng.integers(len(treatments))]
    return Vignette(
        age=int(rng.integers(25, 86)),
        gender=words.genders[rng.integers(len(words.genders))],
        finding=finding,
        treatment=treatment.text,
        label=label,
        error_type="none" if label == "CORRECT" else treatment.error_type,
        severity="none" if label == "CORRECT" else treatment.severity,
    )
