// The rows, what is asked of them, and which of them match in which order. Knows nothing of the page but its data.

const data = JSON.parse(document.getElementById("data").textContent);
const rows = data.rows.map((row) => ({
  ...row,
  haystack: [row.text, row.path, row.stage, row.message].join("\n").toLowerCase(),
}));

// What can be sorted and compared by: a name and what it is for a row.
const fields = [
  ["row", (row) => row.row],
  ["path", (row) => row.path],
  ["caption", (row) => row.text],
  ["words", (row) => row.words],
  ["times repeated", (row) => row.times],
  ["failed at", (row) => row.stage],
];
data.columns.forEach((name, place) => {
  while (fields.some(([field]) => field === name)) name += " (column)"; // each name once: the address holds it
  fields.push([name, (row) => row.cells[place]]);
});

const state = { query: "", marks: new Set(), column: -1, operator: "has", value: "", sort: 0, down: false };

// Words that must all occur; those in quotes as they stand.
const terms = () =>
  [...state.query.toLowerCase().matchAll(/"([^"]+)"?|(\S+)/g)].map(([, phrase, word]) => phrase || word);
function compares(cell) {
  const text = String(cell).toLowerCase();
  const wanted = state.value.trim().toLowerCase();
  if (state.operator === "has") return text.includes(wanted);
  if (state.operator === "is") return text === wanted;
  if (state.operator === "not") return text !== wanted;
  const number = text.trim() === "" ? NaN : Number(text);
  return state.operator === "least" ? number >= Number(wanted) : number <= Number(wanted);
}
const columnCounts = () => state.column >= 0 && (state.value.trim() !== "" || ["is", "not"].includes(state.operator));
function matchesMarks(row) {
  return !state.marks.size || row.marks.some((mark) => state.marks.has(mark));
}
function order(valueOf) {
  const isNumber = rows.every((row) => valueOf(row) === "" || !Number.isNaN(Number(valueOf(row))));
  const collator = new Intl.Collator(undefined, { numeric: true });
  return (one, other) => {
    const a = valueOf(one);
    const b = valueOf(other);
    if ((a === "") !== (b === "")) return a === "" ? 1 : -1; // rows without a value come last, either way round
    const compared = isNumber ? a - b : collator.compare(a, b);
    return (state.down ? -compared : compared) || one.row - other.row;
  };
}

// Rows that match, sorted; and how many would bear each mark if none were asked for.
function findRows() {
  const wanted = terms();
  const valueOf = columnCounts() ? fields[state.column][1] : null;
  const found = rows.filter(
    (row) => wanted.every((term) => row.haystack.includes(term)) && (!valueOf || compares(valueOf(row))),
  );
  const counts = Object.keys(data.marks).map((mark) => [mark, found.filter((row) => row.marks.includes(mark)).length]);
  return [found.filter(matchesMarks).sort(order(fields[state.sort][1])), counts];
}
