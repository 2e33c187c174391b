// The dialog that shows one row with all its frames and columns.

let open = -1; // its place in matches

function showDialog(place) {
  open = place;
  const row = matches[place];
  $("dialog-title").textContent = `row ${row.row} · ${row.path}`;
  $("previous").disabled = place === 0;
  $("next").disabled = place === matches.length - 1;
  $("frames").replaceChildren();
  if (row.strip === null) {
    if (row.problem) $("frames").append(element("p", "message", row.problem));
  } else {
    for (let i = 0; i < data.strips[row.strip][0]; i++) {
      const box = frameBox(row, "");
      paint(box, row);
      showFrame(box, row, i);
      $("frames").append(box);
    }
  }
  $("dialog-marks").replaceChildren();
  badges($("dialog-marks"), row);
  $("dialog-text").className = row.text ? "" : "message";
  $("dialog-text").replaceChildren();
  marked($("dialog-text"), row.text || failureText(row));
  const facts = [["path", row.path], ["words", row.words], ...data.columns.map((name, i) => [name, row.cells[i]])];
  $("facts").replaceChildren(...named(facts));
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
    $("dialog").focus(); // not the first button
  }
  $("dialog").scrollTop = 0;
}
function step(by) {
  const place = open + by;
  if (place < 0 || place >= matches.length) return;
  while (cards.length <= place) addCards();
  showDialog(place);
}
$("dialog").addEventListener("close", () => {
  const card = cards[open];
  open = -1;
  if (card) card.focus();
});
for (const dialog of [$("dialog"), $("help")]) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
}
