"use strict";
(() => {
  const { measures, runs: data } = JSON.parse(document.getElementById("data").textContent);
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const number = (v) => (v === null ? "–" : v === 0 ? "0" : Math.abs(v) >= 0.01 && Math.abs(v) < 1e5 ? v.toPrecision(3) : v.toExponential(1));

  const histogram = (steps, at, cell) => {
    const [reals, wholes, first, counts] = cell;
    const box = make("div", { className: "histogram" });
    if (counts.length) {
      const [width, height, left, bottom] = [480, 180, 8, 28];
      const most = Math.max(...counts);
      const bar = (width - 2 * left) / counts.length;
      const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of |w| at step ${steps[at]}: most elements between 2^${first + counts.indexOf(most)} and twice that` });
      counts.forEach((n, i) => {
        const size = ((height - bottom - 8) * n) / most;
        const rect = draw("rect", { x: left + i * bar + 1, y: height - bottom - size, width: Math.max(bar - 2, 1), height: size });
        rect.append(draw("title", {}, `2^${first + i} ≤ |w| < 2^${first + i + 1}: ${n}`));
        svg.append(rect);
      });
      const every = Math.ceil(counts.length / 6);
      counts.forEach((_, i) => {
        if (i % every === 0) svg.append(draw("text", { x: left + i * bar, y: height - 10 }, number(2 ** (first + i))));
      });
      box.append(svg);
    }
    const list = make("dl", {});
    const facts = [...reals.map(number), ...wholes];
    measures.flat().forEach(([name, why], i) => list.append(make("dt", { textContent: name, title: why }), make("dd", { textContent: facts[i] })));
    box.append(list);
    return box;
  };

  const details = (run, layer, id, columns) => {
    const cells = data[run].layers[layer];
    const known = cells.flatMap((cell, i) => (cell ? [i] : []));
    const view = make("div", {});
    const content = make("td", { colSpan: columns });
    const show = (i) => view.replaceChildren(histogram(data[run].steps, i, cells[i]));
    if (!known.length) content.append("No measurements of this tensor.");
    if (known.length > 1) {
      const label = make("span", {});
      const slider = make("input", { type: "range", min: 0, max: known.length - 1, value: known.length - 1 });
      const move = () => {
        const i = known[slider.value];
        label.textContent = ` step ${data[run].steps[i]}`;
        slider.setAttribute("aria-valuetext", `step ${data[run].steps[i]}`);
        show(i);
      };
      slider.addEventListener("input", move);
      content.append(make("label", {}, "Checkpoint ", slider), label);
      move();
    } else if (known.length) show(known[0]);
    content.append(view);
    return make("tr", { id, className: "detail" }, content);
  };

  for (const card of document.querySelectorAll(".tensors")) {
    const run = Number(card.dataset.run);
    const body = card.querySelector("tbody");
    const rows = [...body.rows];
    const headings = [...card.querySelectorAll("thead th")];
    const filter = card.querySelector(".filter");
    const verdict = card.querySelector(".verdict");
    const shown = card.querySelector(".shown");
    const detail = (row) => document.getElementById(`detail-${run}-${row.dataset.layer}`);

    const apply = () => {
      const text = filter.value.toLowerCase();
      let visible = 0;
      for (const row of rows) {
        const own = row.dataset.verdict;
        const wanted = verdict.value === "" || own === verdict.value || (verdict.value === "below" && own !== "healthy" && own !== "none");
        row.hidden = !(wanted && row.cells[0].textContent.toLowerCase().includes(text));
        const more = detail(row);
        if (more) more.hidden = row.hidden;
        visible += row.hidden ? 0 : 1;
      }
      shown.textContent = `${visible} of ${rows.length} tensors`;
    };
    filter.addEventListener("input", apply);
    verdict.addEventListener("change", apply);

    headings.forEach((heading, column) => {
      const button = make("button", { type: "button", textContent: heading.textContent });
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => {
          const cell = row.cells[column];
          if (heading.dataset.kind === "text") return cell.textContent;
          return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
        };
        rows.sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === null || y === null) return (x === null) - (y === null);
          const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
          return down ? -order : order;
        });
        for (const row of rows) {
          body.append(row);
          const more = detail(row);
          if (more) body.append(more);
        }
      });
    });

    for (const row of rows) {
      const cell = row.cells[0];
      const id = `detail-${run}-${row.dataset.layer}`;
      const button = make("button", { type: "button", className: "open" }, ...cell.childNodes);
      button.setAttribute("aria-expanded", "false");
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        const open = detail(row);
        if (open) open.remove();
        else row.after(details(run, Number(row.dataset.layer), id, row.cells.length));
        button.setAttribute("aria-expanded", String(!open));
      });
    }
    card.querySelector(".controls").hidden = false;
    apply();
  }
})();
