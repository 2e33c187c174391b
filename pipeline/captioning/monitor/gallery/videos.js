// The head of each video's block: title, summary, and a time bar whose parts are the segments of the video.

const MAX_TITLE_WORDS = 12; // of a caption, in the description of a part
const PERCENT_DIGITS = 4;
const DENSE_SEGMENTS = 150; // with more segments in a bar, its parts have no lines between them

// A time in milliseconds as h:mm:ss.mmm, without the hours if there are none.
function timeText(milliseconds) {
  const total = Math.abs(milliseconds);
  const seconds = ((total % 60000) / 1000).toFixed(3).padStart(6, "0");
  const [hours, minutes] = [Math.floor(total / 3600000), Math.floor(total / 60000) % 60];
  const time = hours ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
  return milliseconds < 0 ? `-${time}` : time;
}
const rangeText = (row) => `${timeText(row.start)} - ${row.end === null ? "end" : timeText(row.end)}`;

// For each path its shortest end, in whole names, that no other path has; the whole path if there is none.
function distinctEnds(paths) {
  const names = paths.map((path) => path.split("/"));
  const ends = paths.map(() => "");
  let open = [...paths.keys()];
  for (let length = 1; open.length; length++) {
    const counts = new Map();
    for (const i of open) {
      ends[i] = names[i].slice(-length).join("/");
      counts.set(ends[i], (counts.get(ends[i]) ?? 0) + 1);
    }
    open = open.filter((i) => counts.get(ends[i]) > 1 && length < names[i].length);
  }
  return ends;
}
const videoNames = distinctEnds(data.videos.map((video) => video.path));

// Places segments that overlap one below the other. Returns the row of each in the bar, and the number of rows.
function placeSegments(segments) {
  const ends = [];
  const places = segments.map((row) => {
    let place = ends.findIndex((end) => end <= row.start);
    if (place < 0) place = ends.length;
    ends[place] = Math.max(row.start, segmentEnd(row));
    return place;
  });
  return [places, ends.length];
}
function partDescription(row) {
  const texts = row.captions.map((caption) => {
    const text = caption.text || caption.message || "no caption";
    const words = text.split(" ");
    return words.length > MAX_TITLE_WORDS ? `${words.slice(0, MAX_TITLE_WORDS).join(" ")} …` : text;
  });
  return [rangeText(row), row.marks.join(", "), ...texts].filter(Boolean).join(" · ");
}
function makePart(row, place, places, length) {
  const part = element("button", `part ${row.marks[0] || "captioned"}`);
  const percent = (milliseconds) => `${((milliseconds / length) * 100).toFixed(PERCENT_DIGITS)}%`;
  const start = Math.min(Math.max(row.start, 0), length);
  part.type = "button";
  part.tabIndex = -1;
  part.style.left = percent(start);
  part.style.width = percent(Math.min(Math.max(segmentEnd(row), start), length) - start);
  part.style.top = `${(place / places) * 100}%`;
  part.style.height = `${100 / places}%`;
  part.title = partDescription(row);
  part.setAttribute("aria-label", part.title);
  part.disabled = !matchIndex.has(row);
  part.addEventListener("click", () => showCard(matchIndex.get(row)));
  return part;
}
function showCard(index) {
  while (cards.length <= index) addCards();
  cards[index].scrollIntoView({ block: "center" });
  cards[index].focus({ preventScroll: true });
}
// One part is in the order of the tab key; the arrow keys move from part to part.
function moveInBar(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const parts = [...event.currentTarget.children].filter((part) => !part.disabled);
  const current = parts.indexOf(document.activeElement);
  const index = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: parts.length - 1 }[event.key];
  if (index === undefined) return;
  event.preventDefault();
  event.stopPropagation(); // these keys also move from card to card
  if (!parts[index]) return;
  parts.forEach((part, i) => { part.tabIndex = i === index ? 0 : -1; });
  parts[index].focus();
}
function makeTimeBar(number) {
  const segments = videoRows[number];
  const length = videoLengths[number];
  const [places, count] = placeSegments(segments);
  const bar = element("div", segments.length > DENSE_SEGMENTS ? "timebar dense" : "timebar");
  bar.setAttribute("role", "toolbar");
  bar.setAttribute("aria-label", `segments of ${data.videos[number].path}, in order of time`);
  bar.append(...segments.map((row, i) => makePart(row, places[i], count, length)));
  const first = bar.querySelector(".part:enabled");
  if (first) first.tabIndex = 0;
  bar.addEventListener("keydown", moveInBar);
  return bar;
}
function makeVideoHead(number) {
  const video = data.videos[number];
  const shown = videoRows[number].filter((row) => matchIndex.has(row)).length;
  const head = element("section", "video");
  const title = element("h2", "line");
  const name = videoNames[number];
  title.title = video.path;
  appendHighlighted(title, video.title || name);
  const about = element("p", "about");
  const all = video.segments.toLocaleString("en");
  const count = shown < video.segments ? `${shown.toLocaleString("en")} of ${all}` : all;
  appendHighlighted(about, `${video.title ? `${name} · ` : ""}${count} segment${video.segments === 1 ? "" : "s"}`);
  head.append(title, about);
  if (video.summary) {
    const text = element("p", "summary");
    appendHighlighted(text, video.summary);
    head.append(text);
  }
  const scale = element("p", "scale");
  scale.append(element("span", "", "0:00"), element("span", "", timeText(videoLengths[number])));
  head.append(makeTimeBar(number), scale);
  return head;
}
// What comes before the card of a row if the row before it belongs to another block.
function makeBlockHead(row, previous) {
  if (!data.videos.length || (previous && previous.video === row.video)) return [];
  if (isSegment(row)) return [makeVideoHead(row.video)];
  return previous ? [element("hr", "video")] : [];
}
