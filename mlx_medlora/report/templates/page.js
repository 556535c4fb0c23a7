"use strict";
// Filters, sorts and shows the cases. All text goes in as text nodes: nothing of a case is ever read as markup.
(() => {
  const block = document.getElementById("case-data");
  if (!block) return;
  const { rows, images, instructions, outcomes, gravity } = JSON.parse(block.textContent);
  block.remove(); // its text is not needed twice
  const byId = (name) => document.getElementById(name);
  const list = byId("case-list"), status = byId("case-status"), printed = byId("case-printed");
  const fields = ["outcome", "modality", "label", "severity", "error_type", "change"];
  const controls = Object.fromEntries(
    [...fields, "search", "sort", "size"].map((name) => [name, byId(`case-${name}`)]).filter(([, at]) => at));
  const wrong = (row) => ["missed", "flagged", "unreadable"].includes(row.outcome);
  const grave = (row) => { const at = gravity.indexOf(row.severity); return at < 0 ? gravity.length : at; };
  const miss = (row) => (wrong(row) ? (row.label === "ERROR" ? 0 : 1) : 2);
  const away = (row) => (row.p === undefined || row.threshold === undefined ? 9 : Math.abs(row.p - row.threshold));
  const words = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const orders = {
    gravest: (a, b) => miss(a) - miss(b) || grave(a) - grave(b),
    dataset: () => 0,
    near: (a, b) => away(a) - away(b),
    high: (a, b) => (b.p ?? -1) - (a.p ?? -1),
    low: (a, b) => (a.p ?? 2) - (b.p ?? 2),
    severity: (a, b) => grave(a) - grave(b),
    modality: (a, b) => words(a.modality, b.modality),
    outcome: (a, b) => words(a.outcome, b.outcome),
    id: (a, b) => words(a.id, b.id),
  };
  rows.forEach((row, at) => { row.at = at; });
  let page = 0, shown = rows;

  const make = (tag, kind, text) => {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) { node.dir = "auto"; node.textContent = text; }
    return node;
  };
  const block_of = (title, text) => {
    const told = make("p", "told", text);
    if (text.length > 1500) { told.tabIndex = 0; told.setAttribute("role", "region"); told.setAttribute("aria-label", title); }
    return [make("p", "label", title), told];
  };
  const pictures = (row) => {
    const box = make("div", "images");
    row.images.forEach((number, at) => {
      const uri = images[number];
      if (!uri) { box.append(make("p", "muted", "The image could not be opened.")); return; }
      const image = make("img");
      image.src = uri;
      image.decoding = "async";
      image.alt = `Image ${at + 1} of ${row.images.length}, ${row.modality}`;
      const figure = make("figure");
      figure.append(image, make("figcaption", "", row.names?.[at] ?? ""));
      box.append(figure);
    });
    return box;
  };
  const percent = (value) => {
    const text = (100 * value).toFixed(1);
    if (text === "0.0" && value > 0) return "< 0.1 %";
    return text === "100.0" && value < 1 ? "> 99.9 %" : `${text} %`;
  };
  const tags = (row) => {
    const box = make("p");
    const given = [`modality: ${row.modality}`, `right answer: ${row.label}`, `answered: ${row.said ?? "unreadable"}`];
    if (row.p !== undefined) given.push(`probability of ERROR: ${percent(row.p)}`);
    if (row.threshold !== undefined) given.push(`threshold: ${percent(row.threshold)}`);
    if (row.near) given.push("≈ near-miss: close to the threshold");
    if (row.severity !== "none") given.push(`severity: ${row.severity}`);
    if (row.error_type !== "none") given.push(`error type: ${row.error_type}`);
    if (row.patient) given.push(`patient: ${row.patient}`);
    if (row.change) given.push(`${row.change} against the first run`);
    given.forEach((text) => box.append(make("span", "tag", text)));
    return box;
  };
  const card = (row) => {
    const article = make("article", `case ${wrong(row) ? "wrong" : "right"}`);
    article.dataset.id = row.id;
    article.append(make("h3", "", row.id));
    article.append(make("p", "outcome", `${wrong(row) ? "✗" : "✓"} ${outcomes[row.outcome]}`), tags(row));
    const sides = make("div", "sides"), said = make("div", "said");
    if (row.images && row.images.length) sides.append(pictures(row));
    if (row.instruction !== undefined) said.append(...block_of("Instruction", instructions[row.instruction]));
    if (row.input !== undefined) said.append(...block_of("Case", row.input));
    if (row.right !== undefined) said.append(...block_of("Right answer", row.right));
    said.append(...block_of("The model’s answer", row.text ?? (row.said ? `${row.said} (scored, not written)` : "none")));
    sides.append(said);
    article.append(sides);
    return article;
  };

  const matches = (row, asked, text) =>
    fields.every((name) => {
      const wanted = asked[name];
      if (!wanted) return true;
      if (name === "outcome" && wanted === "wrong") return wrong(row);
      if (name === "outcome" && wanted === "right") return !wrong(row);
      if (name === "outcome" && wanted === "near") return row.near;
      return row[name] === wanted;
    }) &&
    (!text || [row.id, row.input, row.right, row.text, row.patient].some((part) => part?.toLowerCase().includes(text)));

  const draw = () => {
    const size = controls.size.value === "all" ? Math.max(shown.length, 1) : Number(controls.size.value);
    const pages = Math.max(1, Math.ceil(shown.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    const from = page * size, some = shown.slice(from, from + size);
    list.replaceChildren(...some.map(card));
    const range = some.length ? `cases ${from + 1} to ${from + some.length} of ${shown.length}` : "no case";
    status.textContent = some.length ? `Showing ${range} that match, ${rows.length} in all.` : `No case matches, ${rows.length} in all.`;
    printed.textContent = `Printed: ${range} that match the filters, ${rows.length} in all.`;
    byId("case-back").disabled = page === 0;
    byId("case-on").disabled = page >= pages - 1;
  };
  const choose = () => {
    const asked = Object.fromEntries(fields.map((name) => [name, controls[name]?.value ?? ""]));
    const text = controls.search.value.trim().toLowerCase();
    const order = orders[controls.sort.value];
    shown = rows.filter((row) => matches(row, asked, text)).sort((a, b) => order(a, b) || a.at - b.at);
    page = 0;
    draw();
  };
  const reset = () => {
    fields.forEach((name) => { if (controls[name]) controls[name].value = ""; });
    controls.search.value = "";
    controls.sort.value = "gravest";
    choose();
  };
  const turn = (by) => { page += by; draw(); list.focus({ preventScroll: true }); byId("cases").scrollIntoView(); };

  fields.concat("sort", "size").forEach((name) => controls[name]?.addEventListener("change", choose));
  let waiting;
  controls.search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 150); });
  byId("case-reset").addEventListener("click", reset);
  byId("case-back").addEventListener("click", () => turn(-1));
  byId("case-on").addEventListener("click", () => turn(1));
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-case]");
    if (!link) return;
    reset();
    shown = rows.filter((row) => row.id === link.dataset.case);
    draw();
  });
  choose();
})();
