// A card for each file: its preview, its caption and its buttons. Knows nothing about requests.

const ABOUT = { waiting: "waiting", sending: "sending …", captioning: "captioning …", failed: "failed" };

// A preview is loaded when its card comes into view: a browser can't hold a thousand videos.
const views = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    views.unobserve(target);
    target.dispatchEvent(new Event("seen"));
  }
}, { rootMargin: "300px" });

// The controls of a video cover much of a small preview, so they are shown while it is pointed at or has the focus.
function showControlsOnDemand(video) {
  video.tabIndex = 0;
  const isWanted = () => video.matches(":hover, :focus");
  for (const name of ["pointerenter", "pointerleave", "focus", "blur"]) {
    video.addEventListener(name, () => (video.controls = isWanted()));
  }
}

// state: waiting, sending, captioning, done or failed.
export class Card {
  constructor(file, { onRemove, onRetry }) {
    this.file = file;
    this.state = "waiting";
    this.text = "";
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.find("name").textContent = file.name;
    this.find("name").title = file.name;
    this.find("copy").addEventListener("click", () => this.copy());
    this.find("retry").addEventListener("click", () => onRetry(this));
    this.find("remove").addEventListener("click", () => onRemove(this));
    for (const [name, label] of [["copy", "Copy the caption of"], ["retry", "Ask again about"]]) {
      this.find(name).setAttribute("aria-label", `${label} ${file.name}`);
    }
    this.element.addEventListener("seen", () => this.showPreview());
    views.observe(this.element);
    this.show("waiting");
  }

  find(name) {
    return this.element.querySelector(`.${name}`);
  }

  // about: what is said in place of the name of the state.
  show(state, about = ABOUT[state]) {
    this.state = this.element.dataset.state = state;
    const hasEnded = state === "done" || state === "failed";
    this.find("about").textContent = about;
    this.find("message").hidden = state !== "failed";
    this.find("copy").hidden = state !== "done";
    this.find("retry").hidden = !hasEnded;
    this.find("remove").textContent = hasEnded ? "Remove" : "Cancel";
    this.find("remove").setAttribute("aria-label", `${hasEnded ? "Remove" : "Cancel"} ${this.file.name}`);
    this.element.setAttribute("aria-busy", String(!hasEnded));
  }

  showText(text) {
    this.text = text;
    this.find("caption").textContent = text;
    if (text) this.show("captioning");
  }

  showAnswer({ caption, finish_reason: reason, usage }, seconds) {
    this.showText(caption);
    const facts = [`${seconds.toFixed(1)} s`];
    if (usage?.completion_tokens) facts.unshift(`${usage.completion_tokens} tokens`);
    if (reason === "length") facts.push("cut off at its longest length");
    this.show("done", facts.join(" · "));
  }

  showProblem(message) {
    this.find("message").textContent = message;
    this.show("failed");
  }

  showPreview() {
    const isImage = this.file.type.startsWith("image/");
    const preview = document.createElement(isImage ? "img" : "video");
    this.url = URL.createObjectURL(this.file);
    if (isImage) preview.alt = "";
    else showControlsOnDemand(Object.assign(preview, { muted: true, loop: true, playsInline: true, preload: "metadata" }));
    preview.addEventListener("error", () => {
      const note = document.createElement("p");
      note.className = "none";
      note.textContent = "This browser can't show the file; the server may still read it.";
      preview.replaceWith(note);
    });
    preview.src = isImage ? this.url : `${this.url}#t=0.001`; // with a time, phones show a frame, too
    this.find("screen").append(preview);
  }

  async copy() {
    const button = this.find("copy");
    try {
      await navigator.clipboard.writeText(this.text);
    } catch { // only pages of https and of this machine may use the clipboard directly
      getSelection().selectAllChildren(this.find("caption"));
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  remove() {
    views.unobserve(this.element);
    this.element.remove();
    if (this.url) URL.revokeObjectURL(this.url);
  }
}
