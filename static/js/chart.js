// The traffic chart: draws what the table twin beside it says. Bits per second in each direction.
"use strict";
(() => {
  const holder = document.getElementById("traffic-chart");
  if (!holder || typeof uPlot === "undefined") return;
  let plot = null;

  function rate(value) {
    if (value === null || value === undefined) return "—";
    for (const [unit, size] of [["Gbit/s", 1e9], ["Mbit/s", 1e6], ["kbit/s", 1e3]]) {
      if (value >= size) return `${(value / size).toFixed(1)} ${unit}`;
    }
    return `${Math.round(value)} bit/s`;
  }

  function clock(unix_s) {
    return new Date(unix_s * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  }

  function colour(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    holder.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }

  function draw(data) {
    plot?.destroy();
    const axis = { stroke: colour("--vc-quiet"), grid: { stroke: colour("--vc-line"), width: 1 }, ticks: { stroke: colour("--vc-line"), width: 1 } };
    plot = new uPlot({
      width: holder.clientWidth,
      height: 200,
      cursor: { drag: { x: true, y: false } },
      axes: [{ ...axis, values: (_plot, ticks) => ticks.map(clock) }, { ...axis, size: 84, values: (_plot, ticks) => ticks.map(rate) }],
      scales: {
        // uPlot gives one point alone the day that follows it.
        x: { range: (self, low, high) => (self.data[0].length === 1 ? [low - 300, low + 300] : [low, high]) },
        y: { range: (_plot, _low, high) => [0, Math.max(high || 0, 1000)] },
      },
      series: [
        { label: "Time", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" },
        { label: `${holder.dataset.a} → ${holder.dataset.b}`, stroke: colour("--vc-accent"), width: 1.5, value: (_plot, value) => rate(value) },
        { label: `${holder.dataset.b} → ${holder.dataset.a}`, stroke: colour("--vc-good"), width: 1.5, dash: [5, 3], value: (_plot, value) => rate(value) },
      ],
    }, [data.at, data.a_to_b, data.b_to_a], holder);
  }

  async function load() {
    const answer = await fetch(holder.dataset.series, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const data = await answer.json();
    if (!data.at.length) {
      holder.textContent = "No traffic has been recorded yet.";
      return;
    }
    if (!plot) holder.textContent = "";
    if (plot && plot.data[0].length) plot.setData([data.at, data.a_to_b, data.b_to_a]);
    else draw(data);
  }

  document.body.addEventListener("live", load);
  const redraw = () => plot && draw({ at: plot.data[0], a_to_b: plot.data[1], b_to_a: plot.data[2] });
  document.addEventListener("theme", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(() => plot?.setSize({ width: holder.clientWidth, height: 200 })).observe(holder);
  load();
})();
