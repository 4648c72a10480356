// The canvas of a tab: sends the chosen file and where it is clicked, shows what the server answers.
// Gradio gives `element`, `props` (as the server set them), `trigger` (calls the server) and `watch` (of its answers).
const find = (name) => element.querySelector(name);
const [drop, input, note, view, photo, mask, marks, frames, frame, number, video] =
  [".drop", ".file", ".note", ".view", ".photo", ".mask", ".marks", ".frames", ".frame", "output", "video"].map(find);
let index = 0; // of the frame that is shown
const invitation = find(".drop span");
let ratio = 1; // width by height of what is shown
input.accept = props.accept;
invitation.textContent = props.invitation;

const say = (text) => {
  note.textContent = text;
  note.hidden = !text;
};

const send = async (file) => {
  if (!file) return;
  if (file.size > props.most) {
    say(`The file has ${(file.size / 2 ** 20).toFixed(0)} MB; ${(props.most / 2 ** 20).toFixed(0)} MB are the most.`);
    return;
  }
  say("");
  invitation.textContent = "Sending…";
  try {
    const answer = await fetch("upload", { method: "PUT", body: file });
    const text = await answer.text();
    if (answer.ok) trigger("upload", { ticket: text });
    else say(text);
  } catch {
    say("The file could not be sent; is the server still running?");
  }
  invitation.textContent = props.invitation;
};

input.addEventListener("change", () => {
  send(input.files[0]);
  input.value = ""; // so that the same file can be chosen again
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") send(event.dataTransfer.files[0]);
  });
}

const draw = (shape, attributes) => {
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", shape);
  for (const [name, value] of Object.entries(attributes)) drawn.setAttribute(name, value);
  marks.append(drawn);
};
const dot = (x, y, kind) => draw("ellipse", { cx: x, cy: y, rx: 0.007, ry: 0.007 * ratio, class: kind });

// Clicks and boxes are shares of the photo's sides; `ratio` keeps dots round.
const drawMarks = (shown) => {
  ratio = shown.ratio;
  marks.replaceChildren();
  marks.setAttribute("viewBox", "0 0 1 1");
  const { clicks, box, corner } = shown;
  if (box) draw("rect", { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1] });
  for (const [x, y, label] of clicks) dot(x, y, label ? "on" : "off");
  if (corner) dot(corner[0], corner[1], "corner");
};

view.addEventListener("click", (event) => {
  const { left, top, width, height } = photo.getBoundingClientRect();
  const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
  dot(x, y, "pending"); // until the answer comes
  trigger("click", { x, y, index });
});
frame.addEventListener("input", () => trigger("frame", { index: Number(frame.value) }));

const download = (address, name) => {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
};

watch("value", async () => {
  const said = props.value;
  if (!said) return;
  say(said.note ?? "");
  for (const pending of marks.querySelectorAll(".pending")) pending.remove();
  if (said.photo) {
    photo.src = said.photo;
    view.hidden = false;
  }
  if (said.frames) {
    frame.max = said.frames - 1;
    frames.hidden = false;
  }
  if ("frame" in said) {
    index = said.frame;
    if (document.activeElement !== frame) frame.value = index;
    number.textContent = `frame ${index}`;
  }
  if (said.marks) {
    drawMarks(said.marks);
    mask.hidden = !said.mask;
    if (said.mask) mask.src = said.mask;
  }
  if ("video" in said) {
    URL.revokeObjectURL(video.src);
    video.hidden = !said.video;
    if (said.video) video.src = URL.createObjectURL(await (await fetch(said.video)).blob());
    else video.removeAttribute("src");
  }
  if (said.download) download(said.download, said.name);
  element.dataset.answered = said.serial;
});
