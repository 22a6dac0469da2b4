"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const style = () => getComputedStyle(document.documentElement);
  const colour = (name) => style().getPropertyValue(name).trim();
  const marks = { stop: "--bad", authority: "--c3", lease: "--c3", fault: "--warn", fallback: "--warn", back: "--ok", resumed: "--bad" };
  const sync = uPlot.sync("run");
  const plots = [];

  // What happened stands as a line in every plot; limits as lines across it.
  const lines = (figure) => ({
    hooks: {
      draw: (u) => {
        const { ctx, bbox } = u;
        ctx.save();
        ctx.beginPath();
        ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
        ctx.clip();
        ctx.lineWidth = devicePixelRatio;
        for (const mark of data.marks) {
          const x = u.valToPos(mark.x, "x", true);
          ctx.strokeStyle = colour(marks[mark.colour] || "--soft");
          ctx.setLineDash(mark.colour === "stop" ? [] : [3 * devicePixelRatio, 3 * devicePixelRatio]);
          ctx.beginPath();
          ctx.moveTo(x, bbox.top);
          ctx.lineTo(x, bbox.top + bbox.height);
          ctx.stroke();
        }
        ctx.setLineDash([8 * devicePixelRatio, 4 * devicePixelRatio]);
        ctx.strokeStyle = colour("--bad");
        for (const [, value] of figure.limits) {
          const y = u.valToPos(value, "y", true);
          ctx.beginPath();
          ctx.moveTo(bbox.left, y);
          ctx.lineTo(bbox.left + bbox.width, y);
          ctx.stroke();
        }
        ctx.restore();
      },
    },
  });

  const near = (tip) => ({
    hooks: {
      setCursor: (plot) => {
        const x = plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null;
        const reach = x === null ? 0 : Math.abs(plot.posToVal(8, "x") - plot.posToVal(0, "x"));
        const found = x === null ? [] : data.marks.filter((mark) => Math.abs(mark.x - x) <= reach);
        tip.textContent = found.slice(0, 3).map((mark) => mark.text).join("; ");
      },
    },
  });

  const build = (holder) => {
    const figure = data.figures[Number(holder.dataset.figure)];
    holder.textContent = "";
    const tip = document.createElement("div");
    tip.className = "tip";
    const ink = colour("--soft");
    const grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: ink, grid, ticks: grid, font: "12px system-ui, sans-serif" };
    const number = (value) => (value === null || value === undefined ? "" : String(Number(value.toPrecision(5))));
    const short = (value) => (value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(1).replace(".0e", "e") : number(value));
    const clock = (x) => new Date(x * 1e3).toISOString();
    const times = (u, splits, space, found, step) =>
      splits.map((x, i) => {
        const [day, time] = [clock(x).slice(5, 10), clock(x).slice(11, step < 60 ? 19 : 16)];
        return i === 0 || clock(splits[i - 1]).slice(0, 10) !== clock(x).slice(0, 10) ? `${time}\n${day}` : time;
      });
    const options = {
      width: Math.max(280, holder.clientWidth),
      height: 240,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
      cursor: { sync: { key: sync.key }, points: { size: 6 } },
      legend: { markers: { fill: (u, i) => u.series[i].stroke(u, i) } },
      axes: [{ ...axis, values: times, size: 44 }, { ...axis, values: (u, splits) => splits.map(short), size: 62 }],
      scales: {
        y: {
          range: (u, low, high) => {
            if (low === null) return [0, 1];
            const at = figure.limits.map(([, value]) => value).filter((value) => value > low - (high - low) * 2 && value < high + (high - low) * 2);
            const [least, most] = [Math.min(low, ...at), Math.max(high, ...at)];
            const flat = most - least < 1e-9;
            const room = flat ? Math.abs(most) * 0.05 || 0.01 : (most - least) * 0.06;
            return [least - room, most + room];
          },
        },
      },
      series: [
        { label: "time", value: (u, x) => (x === null ? "" : clock(x).slice(5, 16).replace("T", " ")) },
        ...figure.series.map((one) => ({
          label: one.label,
          stroke: colour(`--c${one.colour % 7}`),
          width: one.dashed ? 1.2 : 1.8,
          dash: one.dashed ? [6, 4] : undefined,
          paths: one.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
          points: { show: figure.x.length < 3 },
          spanGaps: false,
          value: (u, value) => number(value),
        })),
      ],
      plugins: [lines(figure), near(tip)],
    };
    const plot = new uPlot(options, [figure.x, ...figure.series.map((one) => one.values)], holder);
    holder.append(tip);
    plots.push([holder, plot]);
  };

  const draw = () => {
    for (const [, plot] of plots) plot.destroy();
    plots.length = 0;
    document.querySelectorAll(".plot").forEach(build);
  };
  document.querySelectorAll("details").forEach((one) => one.removeAttribute("open"));
  draw();
  let waiting = null;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => plots.forEach(([holder, plot]) => plot.setSize({ width: Math.max(280, holder.clientWidth), height: 240 })), 100);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // A plot is a picture of fixed size: paper needs one of its own.
  for (const [when, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(when, () => {
      document.documentElement.classList.toggle("printing", printing);
      draw();
    });
  }
})();
