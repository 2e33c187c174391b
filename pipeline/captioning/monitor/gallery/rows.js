// The rows, the filters that the user has chosen, and the matching rows in order. Knows nothing about the page except
// its data.

const data = JSON.parse(document.getElementById("data").textContent);
// A row has the marks of all its captions, and is found by the words of any of them.
const rows = data.rows.map((row) => ({
  ...row,
  marks: Object.keys(data.marks).filter((mark) => row.captions.some((caption) => caption.marks.includes(mark))),
  searchText: [
    row.path,
    ...row.captions.flatMap((caption) => [caption.text, caption.stage, caption.message]),
    ...videoTexts(row),
  ]
    .join("\n")
    .toLowerCase(),
}));
// The words of a title or a summary find all segments of the video.
function videoTexts(row) {
  const video = data.videos[row.video];
  return video ? [video.title, video.summary] : [];
}
// For each video, its segments in order of time, and its length in milliseconds.
const isSegment = (row) => row.video !== undefined;
const byTime = (one, other) => one.start - other.start || segmentEnd(one) - segmentEnd(other) || one.row - other.row;
const videoRows = data.videos.map(() => []);
rows.forEach((row) => videoRows[row.video]?.push(row));
const videoLengths = data.videos.map((video, i) =>
  videoRows[i].reduce((length, row) => Math.max(length, row.until ?? 0), Math.max(1, video.length)),
);
const segmentEnd = (row) => row.end ?? row.until ?? videoLengths[row.video];
videoRows.forEach((segments) => segments.sort(byTime));
const hasSeveralCaptions = data.captions.length > 1;

// Fields by which rows can be sorted and filtered: the name, and a function from a row to its value.
const fields = [];
function addField(name, valueOf) {
  while (fields.some(([field]) => field === name)) name += " (column)"; // field names must be unique: the page address refers to fields by name
  fields.push([name, valueOf]);
}
addField(data.unit, (row) => row.row);
addField("path", (row) => row.path);
data.captions.forEach((column, index) => {
  const ofColumn = hasSeveralCaptions ? ` (${column})` : "";
  addField(hasSeveralCaptions ? column : "caption", (row) => row.captions[index].text);
  addField(`words${ofColumn}`, (row) => row.captions[index].words);
  addField(`times repeated${ofColumn}`, (row) => row.captions[index].times);
  addField(`failed at${ofColumn}`, (row) => row.captions[index].stage);
});
data.columns.forEach((name, index) => addField(name, (row) => row.cells[index]));

const state = { query: "", marks: new Set(), column: -1, operator: "has", value: "", sort: 0, isDescending: false };

// The search terms, all of which must occur: words, and phrases in quotes.
const terms = () =>
  [...state.query.toLowerCase().matchAll(/"([^"]+)"?|(\S+)/g)].map(([, phrase, word]) => phrase || word);
function matchesColumn(cell) {
  const text = String(cell).toLowerCase();
  const value = state.value.trim().toLowerCase();
  if (state.operator === "has") return text.includes(value);
  if (state.operator === "is") return text === value;
  if (state.operator === "not") return text !== value;
  const number = text.trim() === "" ? NaN : Number(text);
  return state.operator === "least" ? number >= Number(value) : number <= Number(value);
}
const hasColumnFilter = () => state.column >= 0 && (state.value.trim() !== "" || ["is", "not"].includes(state.operator));
function matchesMarks(row) {
  return !state.marks.size || row.marks.some((mark) => state.marks.has(mark));
}
function makeComparison(valueOf) {
  const isNumber = rows.every((row) => valueOf(row) === "" || !Number.isNaN(Number(valueOf(row))));
  const collator = new Intl.Collator(undefined, { numeric: true });
  return (one, other) => {
    const a = valueOf(one);
    const b = valueOf(other);
    if ((a === "") !== (b === "")) return a === "" ? 1 : -1; // rows without a value come last in both directions
    const compared = isNumber ? a - b : collator.compare(a, b);
    return (state.isDescending ? -compared : compared) || one.row - other.row;
  };
}

// The matching rows, sorted; and for each mark, the number of rows that match all filters except the marks.
function findRows() {
  const required = terms();
  const valueOf = hasColumnFilter() ? fields[state.column][1] : null;
  const found = rows.filter(
    (row) => required.every((term) => row.searchText.includes(term)) && (!valueOf || matchesColumn(valueOf(row))),
  );
  const counts = Object.keys(data.marks).map((mark) => [mark, found.filter((row) => row.marks.includes(mark)).length]);
  return [inBlocks(found.filter(matchesMarks).sort(makeComparison(fields[state.sort][1]))), counts];
}
// Puts the segments of each video next to each other, at the place of the first of them. If the user has not chosen
// another order, they are in order of time; otherwise they stay in the chosen order.
function inBlocks(sorted) {
  if (!data.videos.length) return sorted;
  const blocks = new Map();
  for (const row of sorted) {
    const key = row.video ?? row;
    if (!blocks.has(key)) blocks.set(key, []);
    blocks.get(key).push(row);
  }
  const inOrder = state.isDescending ? (one, other) => byTime(other, one) : byTime;
  if (!state.sort) blocks.forEach((block) => isSegment(block[0]) && block.sort(inOrder));
  return [...blocks.values()].flat();
}
