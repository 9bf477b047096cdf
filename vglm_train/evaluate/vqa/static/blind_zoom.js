"use strict";
// One picture over the whole page: buttons, wheel, + and - make it larger and smaller, dragging or scrolling moves it,
// and two sliders change brightness and contrast.
const zoom = {
  scale: 1,

  open(source) {
    const image = make("img", { src: source, alt: "", draggable: false });
    const slider = name => make("label", {}, word(name) + " ", make("input", { type: "range", min: 20, max: 300, value: 100, name, oninput: () => this.light() }));
    const bar = make("div", { className: "bar" }, button("smaller", () => this.by(1 / 1.5), { id: "smaller" }), button("larger", () => this.by(1.5), { id: "larger" }),
      slider("brightness"), slider("contrast"), button("close", () => this.dialog.close(), { id: "close" }));
    const field = make("div", { className: "field" }, image);
    this.dialog = make("dialog", { id: "zoom" }, bar, field);
    Object.assign(this, { scale: 1, image, field });
    this.dialog.onclose = () => this.dialog.remove();
    this.dialog.onkeydown = ({ key }) => { if (key === "+" || key === "=") this.by(1.5); else if (key === "-") this.by(1 / 1.5); };
    field.addEventListener("wheel", event => { event.preventDefault(); this.by(event.deltaY < 0 ? 1.2 : 1 / 1.2, event); }, { passive: false });
    this.drag(field);
    document.body.append(this.dialog);
    this.dialog.showModal();
  },

  light() {
    const [brightness, contrast] = ["brightness", "contrast"].map(name => this.dialog.querySelector(`[name=${name}]`).value);
    this.image.style.filter = `brightness(${brightness}%) contrast(${contrast}%)`;
  },

  by(factor, at) { // around the pointer, or else the middle
    const { field, image } = this, box = field.getBoundingClientRect(), before = this.scale;
    const [x, y] = at ? [at.clientX - box.left, at.clientY - box.top] : [box.width / 2, box.height / 2];
    const [left, top] = [field.scrollLeft + x, field.scrollTop + y];
    this.scale = Math.min(16, Math.max(1, before * factor));
    image.style.width = image.style.height = `${100 * this.scale}%`;
    field.scrollTo(left * (this.scale / before) - x, top * (this.scale / before) - y);
  },

  drag(field) { // a finger scrolls by itself
    let last = null;
    field.onpointerdown = event => { if (event.pointerType === "mouse") { last = [event.clientX, event.clientY]; field.setPointerCapture(event.pointerId); } };
    field.onpointermove = event => {
      if (!last) return;
      field.scrollBy(last[0] - event.clientX, last[1] - event.clientY);
      last = [event.clientX, event.clientY];
    };
    field.onpointerup = field.onpointercancel = () => { last = null; };
  },
};

begin();
