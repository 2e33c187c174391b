// Sends one file to the server and reads the streamed answer. Knows nothing about the page.

const LEAST_WAIT = 1; // seconds before a refused request is sent again
const MOST_WAIT = 120;
const NO_ANSWER = "No answer from the server: it does not run, or the file is larger than it accepts.";

export class KeyNeeded extends Error {}

// Caption a file; returns {caption, finish_reason, usage}.
// key: "" for none. onText is called with all of the text so far; onBusy with the seconds until the next try.
// Throws KeyNeeded; an Error whose message is for people; or the AbortError of the signal.
export async function captionFile(file, question, key, signal, onText, onBusy) {
  for (;;) {
    const response = await send(file, question, key, signal);
    if (response.status === 503) {
      const error = await errorOf(response);
      if (error.code !== "queue_full") throw new Error(error.message); // asking again could end another device
      const seconds = waitOf(response);
      onBusy(seconds);
      await sleep(seconds, signal);
      continue;
    }
    if (response.status === 401) throw new KeyNeeded(await problemOf(response));
    if (!response.ok) throw new Error(await problemOf(response));
    return readAnswer(response, signal, onText);
  }
}

// The name of the model; null if the server does not say. Throws KeyNeeded.
export async function servedModel(key) {
  const response = await fetch("v1/models", { headers: headersOf(key) }).catch(() => null);
  if (response?.status === 401) throw new KeyNeeded();
  const models = response?.ok ? await response.json().catch(() => null) : null;
  return models?.data?.[0]?.id ?? null;
}

async function send(file, question, key, signal) {
  const form = new FormData();
  form.append("stream", "true");
  if (question) form.append("question", question);
  form.append("file", file, file.name);
  try {
    return await fetch("caption", { method: "POST", body: form, headers: headersOf(key), signal });
  } catch (error) {
    throw signal.aborted ? error : new Error(NO_ANSWER);
  }
}

const headersOf = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function readAnswer(response, signal, onText) {
  let text = "";
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const message = JSON.parse(data);
      if (message.error) throw new Problem(message.error.message || "The server failed.");
      if ("caption" in message) return message;
      if (message.text) onText((text += message.text));
    }
  } catch (error) {
    if (signal.aborted || error instanceof Problem) throw error;
  }
  throw new Error("The connection was lost before the caption was complete.");
}

class Problem extends Error {}

// The data of server-sent events; comments and other fields are left out.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((whole) => whole.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

const problemOf = async (response) => (await errorOf(response)).message;

// The error of a response: {message, code}.
async function errorOf(response) {
  const unknown = { message: `The server answered with status ${response.status}.`, code: null };
  const text = await response.text().catch(() => "");
  try {
    const { message, code } = JSON.parse(text).error;
    return { message: message || unknown.message, code };
  } catch {
    return unknown;
  }
}

function waitOf(response) {
  const seconds = Number(response.headers.get("Retry-After") ?? LEAST_WAIT);
  return Math.min(MOST_WAIT, Math.max(LEAST_WAIT, Number.isFinite(seconds) ? seconds : LEAST_WAIT));
}

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
