"use strict";
// Draws each chart of the report with uPlot when the reader scrolls to it.
// `reportData` is the page's data block; the other scripts read it too.
const reportData = JSON.parse(document.getElementById("data").textContent);

(() => {
  const HEIGHT_PX = 240;
  const isDark = matchMedia("(prefers-color-scheme: dark)");

  const colourOf = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

  /** Returns the cumulative sums of the series, so that their bars are stacked. */
  function stacked(series) {
    const below = new Array(series[0].values.length).fill(0);
    return series.map((each) => each.values.map((value, at) => (below[at] += value || 0)));
  }

  function drawMarks(chart, marks) {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colourOf("--ink");
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    let freeFrom = -Infinity;
    for (const mark of marks) {
      const x = chart.valToPos(mark.x, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const text = `→ ${mark.to}`;
      // A name that would overlap the one before it is left out.
      if (x > freeFrom && x + ctx.measureText(text).width < bbox.left + bbox.width) {
        ctx.fillText(text, x + 3 * devicePixelRatio, bbox.top + 2 * devicePixelRatio);
        freeFrom = x + ctx.measureText(text).width + 12 * devicePixelRatio;
      }
    }
    ctx.restore();
  }

  function drawDiagonal(chart) {
    const { ctx, scales } = chart;
    const least = Math.max(scales.x.min, scales.y.min);
    const most = Math.min(scales.x.max, scales.y.max);
    ctx.save();
    ctx.strokeStyle = colourOf("--soft");
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(chart.valToPos(least, "x", true), chart.valToPos(least, "y", true));
    ctx.lineTo(chart.valToPos(most, "x", true), chart.valToPos(most, "y", true));
    ctx.stroke();
    ctx.restore();
  }

  /** Each transport has its own point shape, for readers who cannot distinguish the colours. */
  function pointPath(shape) {
    return (chart, seriesAt) => {
      const path = new Path2D();
      const r = 3.2 * devicePixelRatio;
      const [xs, ys] = [chart.data[0], chart.data[seriesAt]];
      for (let at = 0; at < xs.length; at++) {
        if (ys[at] == null) continue;
        const x = chart.valToPos(xs[at], "x", true);
        const y = chart.valToPos(ys[at], "y", true);
        if (shape === 0) {
          path.moveTo(x + r, y);
          path.arc(x, y, r, 0, 2 * Math.PI);
        } else if (shape === 1) {
          path.rect(x - r, y - r, 2 * r, 2 * r);
        } else {
          path.moveTo(x, y - r);
          path.lineTo(x + r, y + r);
          path.lineTo(x - r, y + r);
          path.closePath();
        }
      }
      return { fill: path, stroke: path, flags: 1 };
    };
  }

  function axis(label) {
    return {
      label,
      stroke: colourOf("--ink"),
      grid: { stroke: colourOf("--line"), width: 1 },
      ticks: { stroke: colourOf("--line"), width: 1 },
      font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif",
    };
  }

  /** Allowed distances between ticks: round whole numbers. */
  const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];

  /** Returns the range of a logarithmic scale; uPlot's own would extend to whole decades. */
  function logRange(chart, low, high) {
    return [(low || 0.01) / 1.3, (high || 1) * 1.3];
  }

  /** Returns one range for both axes, so that equal values are on the diagonal. */
  function sharedRange(spec) {
    const values = [spec.x, ...spec.series.map((each) => each.values)].flat();
    const known = values.filter((value) => value > 0);
    const range = logRange(null, Math.min(...known), Math.max(...known));
    return () => range;
  }

  function options(spec, width, showValues) {
    const isBars = spec.kind === "bars";
    const series = spec.series.map((each, at) =>
      isBars
        ? {
            label: each.label,
            fill: each.colour,
            stroke: each.colour,
            width: 0,
            points: { show: false },
            paths: uPlot.paths.bars({ size: [spec.x.length > 40 ? 1 : 0.92, 60] }),
          }
        : {
            label: each.label,
            fill: each.colour,
            stroke: each.colour,
            width: 1,
            points: { show: false },
            paths: pointPath(at),
          },
    );
    const wholeBars = (chart, low, high) => {
      const step = spec.x.length > 1 ? spec.x[1] - spec.x[0] : 1;
      return [low - step / 2, high + step / 2];
    };
    const range = spec.has_diagonal ? sharedRange(spec) : logRange;
    return {
      width,
      height: HEIGHT_PX,
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { show: false } },
      scales: {
        x: spec.is_x_log
          ? { time: false, distr: 3, range }
          : { time: false, range: wholeBars },
        y: spec.is_y_log
          ? { distr: 3, range }
          : { range: (chart, low, high) => [0, (high || 1) * (spec.marks?.length ? 1.2 : 1.08)] },
      },
      axes: [
        { ...axis(spec.x_label), size: 34, labelSize: 20, ...(spec.is_x_log ? {} : { incrs: STEPS }) },
        { ...axis(spec.y_label), size: 56 },
      ],
      // The highest bars come first, so that the lower ones are drawn over them.
      series: [{ label: spec.x_label }, ...(isBars ? series.reverse() : series)],
      hooks: {
        draw: [
          (chart) => spec.marks && drawMarks(chart, spec.marks),
          (chart) => spec.has_diagonal && drawDiagonal(chart),
        ],
        setCursor: [(chart) => showValues(chart.cursor.idx)],
      },
    };
  }

  function legend(spec) {
    const list = document.createElement("ul");
    list.className = "legend";
    spec.series.forEach((each, at) => {
      const swatch = document.createElement("span");
      swatch.className = spec.kind === "points" ? `swatch shape-${Math.min(at, 2)}` : "swatch";
      swatch.style.background = each.colour;
      const item = document.createElement("li");
      item.append(swatch, each.label);
      list.append(item);
    });
    return list;
  }

  function draw(holder, spec) {
    const values = document.createElement("p");
    values.className = "soft values";
    const rounded = (value) => Number(value.toPrecision(3)).toLocaleString("en");
    const showValues = (at) => {
      const shown = at == null ? [] : spec.series.filter((each) => each.values[at]);
      values.textContent = shown.length
        ? `${spec.x_label} ${rounded(spec.x[at])}: ` +
          shown.map((each) => `${each.label} ${rounded(each.values[at])}`).join(", ")
        : "\u00a0";
    };
    showValues(null);
    const rows = spec.series.map((each) => each.values);
    const data = [spec.x, ...(spec.kind === "bars" ? stacked(spec.series).reverse() : rows)];
    holder.replaceChildren();
    const chart = new uPlot(options(spec, holder.clientWidth, showValues), data, holder);
    holder.append(legend(spec), values);
    return chart;
  }

  const specs = new Map(reportData.charts.map((spec) => [spec.id, spec]));
  const drawn = new Map();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        drawn.set(target, draw(target, specs.get(target.dataset.chart)));
      }
    },
    { rootMargin: "200px" },
  );
  document.querySelectorAll("[data-chart]").forEach((holder) => observer.observe(holder));
  addEventListener("resize", () => {
    for (const [holder, chart] of drawn) {
      chart.setSize({ width: holder.clientWidth, height: HEIGHT_PX });
    }
  });
  isDark.addEventListener("change", () => {
    for (const holder of drawn.keys()) {
      drawn.get(holder).destroy();
      drawn.set(holder, draw(holder, specs.get(holder.dataset.chart)));
    }
  });
})();
