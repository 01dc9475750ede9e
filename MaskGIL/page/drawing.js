// A drawing as it comes: one request, its events one by one. A new one ends the one before.

let current = null;

// Calls on[event](event) for each line of the answer; resolves when there is nothing more to come.
export async function draw(wish, on) {
  current?.abort();
  const mine = (current = new AbortController());
  let ended = false;
  const handle = (line) => {
    if (mine !== current) return;
    const event = JSON.parse(line);
    ended = event.event === "done" || event.event === "error";
    return on[event.event](event);
  };
  try {
    const answer = await fetch("/draw", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wish),
      signal: mine.signal,
    });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    await eachLine(answer.body, handle);
    if (!ended) throw new Error("The drawing broke off: the way to the program is lost or too slow. Try again, with fewer pictures.");
  } catch (error) {
    if (mine !== current || error.name === "AbortError") return;
    const lost = error instanceof TypeError;
    on.error({ sentence: lost ? "The page has lost its program; start it again." : error.message });
  }
}

export function stop() {
  current?.abort();
  current = null;
}

export async function show(canvas, url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  if (canvas.width !== picture.width) canvas.width = picture.width;
  if (canvas.height !== picture.height) canvas.height = picture.height;
  canvas.classList.toggle("coarse", picture.width < 200);
  canvas.getContext("2d").drawImage(picture, 0, 0);
}

async function eachLine(stream, handle) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) await handle(line);
  }
}
