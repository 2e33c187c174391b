// The dialog that shows one row with all its frames and columns.

let openIndex = -1; // index in matches of the row shown; -1: the dialog is closed

function showDialog(index) {
  openIndex = index;
  const row = matches[index];
  $("dialog-title").textContent = `${data.unit} ${row.row} · ${isSegment(row) ? `${rangeText(row)} · ` : ""}${row.path}`;
  $("previous").disabled = index === 0;
  $("next").disabled = index === matches.length - 1;
  $("frames").replaceChildren();
  if (row.strip === null) {
    if (row.problem) $("frames").append(element("p", "message", row.problem));
  } else {
    for (let i = 0; i < data.strips[row.strip][0]; i++) {
      const box = makeFrameBox(row, "");
      loadPicture(box, row);
      showFrame(box, row, i);
      $("frames").append(box);
    }
  }
  $("dialog-captions").replaceChildren();
  row.captions.forEach((caption, i) =>
    $("dialog-captions").append(...makeNames(i), makeBadges(caption), makeText(caption, "full")),
  );
  const words = data.captions.map((name, i) => [hasSeveralCaptions ? `words (${name})` : "words", row.captions[i].words]);
  const time = isSegment(row) ? [["time", rangeText(row)]] : [];
  const facts = [["path", row.path], ...time, ...words, ...data.columns.map((name, i) => [name, row.cells[i]])];
  $("facts").replaceChildren(...listItems(facts));
  if (row.link) {
    const link = element("a", "", "open the clip");
    link.href = row.link;
    link.target = "_blank";
    link.rel = "noopener";
    const fact = element("dd");
    fact.append(link);
    $("facts").prepend(element("dt", "", "clip"), fact);
  }
  if (!$("dialog").open) {
    $("dialog").showModal();
    $("dialog").focus(); // otherwise the first button gets the focus
  }
  $("dialog").scrollTop = 0;
}
function step(by) {
  const index = openIndex + by;
  if (index < 0 || index >= matches.length) return;
  while (cards.length <= index) addCards();
  showDialog(index);
}
$("dialog").addEventListener("close", () => {
  const card = cards[openIndex];
  openIndex = -1;
  // This event may come late: the user may have moved to the search box already.
  if (card && document.activeElement !== $("search")) card.focus();
});
for (const dialog of [$("dialog"), $("help")]) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // a click outside of the dialog
}
