"use strict";
// Shows the images as a table or as pictures; the page holds only the rows in view.
(() => {
  const { columns, texts, pictures } = reportData;
  const { cellText, idOf, pictureOf } = reportViewer;
  const TABLE_ROW_PX = 46;
  const TILE_ROW_PX = 216;
  const TILE_PX = 176;
  const SPARE_ROWS = 8;
  const scroller = document.getElementById("scroller");
  const grid = document.getElementById("images");
  const [head, body] = [grid.tHead, grid.tBodies[0]];
  const search = document.getElementById("search");
  const only = document.getElementById("only");
  const view = document.getElementById("view");
  const found = document.getElementById("found");
  const shown = columns.filter((column) => column.is_shown);
  const status = columns.find((column) => column.name === "status");
  const hasPictures = pictures.some(Boolean);
  const searched = ["image", "status", "transport", "why", "remark"].map((name) =>
    columns.find((column) => column.name === name),
  );
  let searchTexts = null;
  let rows = pictures.map((_, row) => row);
  let sort = { column: null, sign: 1 };
  let active = 0;

  const isTiled = () => view.value === "pictures";
  const perRow = () => (isTiled() ? Math.max(Math.floor(scroller.clientWidth / TILE_PX), 1) : 1);
  const rowPx = () => (isTiled() ? TILE_ROW_PX : TABLE_ROW_PX);

  function searchTextOf(row) {
    searchTexts ??= [];
    searchTexts[row] ??= searched
      .map((column) => texts[column.values[row]])
      .join("\n")
      .toLowerCase();
    return searchTexts[row];
  }

  /** Compares two rows; a missing value comes last in both sort directions. */
  function compare(one, other) {
    const { column, sign } = sort;
    const [a, b] = [column.values[one], column.values[other]];
    if (column.decimals === null) {
      return sign * texts[a].localeCompare(texts[b], "en", { numeric: true }) || one - other;
    }
    if (a === null || b === null) return (a === null) - (b === null) || one - other;
    return sign * (a - b) || one - other;
  }

  function select() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows = pictures.map((_, row) => row).filter((row) => {
      if (only.value && texts[status.values[row]] !== only.value) return false;
      return words.every((word) => searchTextOf(row).includes(word));
    });
    if (sort.column) rows.sort(compare);
    active = 0;
    scroller.scrollTop = 0;
    const all = pictures.length.toLocaleString("en");
    found.textContent = `${rows.length.toLocaleString("en")} of ${all} images`;
    grid.setAttribute("aria-rowcount", Math.ceil(rows.length / perRow()) + 1);
    render();
  }

  function spacer(height) {
    const row = document.createElement("tr");
    row.style.height = `${height}px`;
    row.setAttribute("aria-hidden", "true");
    return row;
  }

  function framed(row) {
    const frame = document.createElement("span");
    frame.className = "frame";
    frame.append(...pictureOf(row));
    return frame;
  }

  function tableCells(row) {
    const cells = shown.map((column, at) => {
      const cell = document.createElement(at ? "td" : "th");
      if (!at) cell.scope = "row";
      cell.className = column.decimals === null ? `text ${column.name}` : "number";
      const text = cellText(column, row);
      cell.textContent = cell.title = text;
      if (column.decimals !== null) cell.removeAttribute("title");
      return cell;
    });
    if (hasPictures) {
      const cell = document.createElement("td");
      cell.append(framed(row));
      cells.unshift(cell);
    }
    return cells;
  }

  function tileCell(first, count) {
    const cell = document.createElement("td");
    cell.colSpan = shown.length + 1;
    for (let at = first; at < Math.min(first + count, rows.length); at++) {
      const tile = document.createElement("span");
      const row = rows[at];
      tile.className = `tile${at === active ? " active" : ""}`;
      tile.dataset.at = at;
      tile.id = `at-${at}`;
      tile.setAttribute("role", "button");
      const objects = columns.find((column) => column.name === "object_count");
      const state = texts[status.values[row]];
      const name = document.createElement("b");
      name.textContent = name.title = idOf(row);
      const unit = objects.values[row] === 1 ? "object" : "objects";
      const note = document.createElement("small");
      note.textContent = state === "done" ? `${cellText(objects, row)} ${unit}` : state;
      note.className = state === "done" ? "" : "bad";
      tile.append(framed(row), name, note);
      cell.append(tile);
    }
    return cell;
  }

  function render() {
    const [px, imagesPerLine] = [rowPx(), perRow()];
    const lines = Math.ceil(rows.length / imagesPerLine);
    const first = Math.max(Math.floor(scroller.scrollTop / px) - SPARE_ROWS, 0);
    const inView = Math.ceil(scroller.clientHeight / px) + 2 * SPARE_ROWS;
    const last = Math.min(first + inView, lines);
    const lineElements = [];
    for (let line = first; line < last; line++) {
      const element = document.createElement("tr");
      element.style.height = `${px}px`;
      element.setAttribute("aria-rowindex", line + 2);
      if (isTiled()) {
        element.append(tileCell(line * imagesPerLine, imagesPerLine));
      } else {
        element.id = `at-${line}`;
        element.dataset.at = line;
        element.className = texts[status.values[rows[line]]] === "done" ? "" : "bad";
        element.setAttribute("aria-selected", line === active);
        element.append(...tableCells(rows[line]));
      }
      lineElements.push(element);
    }
    body.replaceChildren(spacer(first * px), ...lineElements, spacer((lines - last) * px));
    grid.setAttribute("aria-activedescendant", rows.length ? `at-${active}` : "");
  }

  function moveTo(next) {
    active = Math.min(Math.max(next, 0), Math.max(rows.length - 1, 0));
    const top = Math.floor(active / perRow()) * rowPx();
    const visiblePx = scroller.clientHeight - head.offsetHeight - rowPx();
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    if (top > scroller.scrollTop + visiblePx) scroller.scrollTop = top - visiblePx;
    render();
  }

  function makeHead() {
    const line = document.createElement("tr");
    if (hasPictures) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = "Picture";
      line.append(cell);
    }
    for (const column of shown) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.className = column.decimals === null ? "text" : "number";
      const button = document.createElement("button");
      button.type = "button";
      const heading = column.name === "total_s" ? "Time, s" : column.heading;
      button.textContent = column.name === "transport" ? "Transport" : heading;
      button.addEventListener("click", () => {
        const sign = sort.column === column ? -sort.sign : 1;
        sort = { column, sign };
        for (const each of line.children) each.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        select();
      });
      cell.append(button);
      line.append(cell);
    }
    head.replaceChildren(line);
  }

  let searchTimer = 0;
  search.addEventListener("input", () => {
    clearTimeout(searchTimer);
    searchTimer = setTimeout(select, 120);
  });
  only.addEventListener("change", select);
  view.addEventListener("change", () => {
    grid.classList.toggle("tiled", isTiled());
    select();
  });
  scroller.addEventListener("scroll", () => requestAnimationFrame(render), { passive: true });
  addEventListener("resize", render);
  body.addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-at]");
    if (!chosen) return;
    moveTo(Number(chosen.dataset.at));
    reportViewer.open(rows, active);
  });
  grid.addEventListener("keydown", (event) => {
    if (event.target !== grid) return;
    const page = Math.max(Math.floor(scroller.clientHeight / rowPx()) - 1, 1) * perRow();
    const to = {
      ArrowDown: active + perRow(),
      ArrowUp: active - perRow(),
      ArrowRight: active + 1,
      ArrowLeft: active - 1,
      PageDown: active + page,
      PageUp: active - page,
      Home: 0,
      End: rows.length - 1,
    }[event.key];
    if (to !== undefined) moveTo(to);
    else if (event.key === "Enter" && rows.length) reportViewer.open(rows, active);
    else return;
    event.preventDefault();
  });
  reportViewer.onClose((at) => {
    moveTo(at);
    grid.focus({ preventScroll: true });
  });

  if (!hasPictures) view.parentElement.hidden = true;
  makeHead();
  select();
})();
