"use strict";
// Shows one image large: its picture with or without outlines, and all its values.
const reportViewer = (() => {
  const { columns, texts, pictures } = reportData;
  const dialog = document.getElementById("viewer");
  const part = (name) => dialog.querySelector(`[data-part="${name}"]`);
  const [title, stage, facts, zoomText] = ["title", "stage", "facts", "zoom"].map(part);
  const outlines = document.getElementById("outlines");
  const ZOOM_STEP = 1.25;
  const formats = new Map();
  let order = [];
  let at = 0;
  let zoom = 1;

  function numberText(value, decimals) {
    if (!formats.has(decimals)) {
      const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
      formats.set(decimals, new Intl.NumberFormat("en", digits));
    }
    return formats.get(decimals).format(value);
  }

  function cellText(column, row) {
    const value = column.values[row];
    if (column.decimals === null) return texts[value];
    return value === null ? "–" : numberText(value, column.decimals);
  }

  const idOf = (row) => cellText(columns[0], row);
  const previewOf = (row) => `previews/${encodeURIComponent(idOf(row))}.png`;

  /** Returns the image elements of a row: picture and outlines, or the preview file, or []. */
  function pictureOf(row) {
    const found = pictures[row];
    if (!found) return [];
    const sources = found === 1 ? [previewOf(row)] : found;
    return sources.map((source, layer) => {
      const image = new Image();
      image.loading = "lazy";
      image.decoding = "async";
      image.className = layer === 1 ? "outlines" : "";
      image.alt = layer === 1 ? "" : `${idOf(row)} with the outlines of its objects`;
      // The preview file is missing if the page was moved without its folder.
      image.addEventListener("error", () => image.remove());
      image.src = source;
      return image;
    });
  }

  function setZoom(next) {
    const [base] = stage.children;
    if (!base?.naturalWidth) return;
    zoom = Math.min(Math.max(next, 0.1), 16);
    const height = base.naturalHeight * zoom;
    for (const layer of stage.children) {
      layer.style.width = `${base.naturalWidth * zoom}px`;
      layer.style.height = `${height}px`;
    }
    stage.classList.toggle("pixels", zoom > 2);
    zoomText.textContent = `${Math.round(100 * zoom)} %`;
  }

  function fit() {
    const [base] = stage.children;
    if (!base?.naturalWidth) return;
    const frame = stage.parentElement;
    setZoom(
      Math.min(frame.clientWidth / base.naturalWidth, frame.clientHeight / base.naturalHeight),
    );
  }

  function show() {
    const row = order[at];
    title.textContent = idOf(row);
    const layers = pictureOf(row);
    stage.replaceChildren(...layers);
    part("none").hidden = layers.length > 0;
    part("linked").hidden = pictures[row] !== 1;
    if (layers.length) {
      layers[0].addEventListener("load", fit);
      layers[0].addEventListener("error", () => (part("missing").hidden = false));
    }
    part("missing").hidden = true;
    zoomText.textContent = "";
    facts.replaceChildren(
      ...columns.slice(1).flatMap((column) => {
        const text = cellText(column, row);
        if (text === "" || text === "–") return [];
        const [name, value] = ["dt", "dd"].map((tag) => document.createElement(tag));
        name.textContent = column.group ? `${column.group}: ${column.heading}` : column.heading;
        value.textContent = text;
        return [name, value];
      }),
    );
    const log = part("log");
    log.href = `logs/${encodeURIComponent(idOf(row))}.json`;
    part("position").textContent = `${at + 1} of ${order.length}`;
  }

  function step(by) {
    at = Math.min(Math.max(at + by, 0), order.length - 1);
    show();
  }

  const actions = {
    previous: () => step(-1),
    next: () => step(1),
    in: () => setZoom(zoom * ZOOM_STEP),
    out: () => setZoom(zoom / ZOOM_STEP),
    fit,
    outlines: () => outlines.click(),
    close: () => dialog.close(),
  };
  const keys = {
    ArrowLeft: "previous",
    ArrowRight: "next",
    "+": "in",
    "=": "in",
    "-": "out",
    0: "fit",
    o: "outlines",
  };
  dialog.addEventListener("click", (event) => {
    const action = event.target.dataset?.action;
    if (action) actions[action]();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = keys[event.key];
    if (!action) return;
    actions[action]();
    event.preventDefault();
  });
  outlines.addEventListener("change", () => {
    document.body.classList.toggle("no-outlines", !outlines.checked);
  });

  return {
    cellText,
    idOf,
    pictureOf,
    /** Shows image `rows[index]`; the left and right keys show its neighbours in `rows`. */
    open(rows, index) {
      order = rows;
      at = index;
      dialog.showModal();
      show();
    },
    onClose(callback) {
      dialog.addEventListener("close", () => callback(at));
    },
  };
})();
