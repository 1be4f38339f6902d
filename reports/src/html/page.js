"use strict";
(() => {
  const content = (id) => document.getElementById(id).textContent;
  const { verdicts, glyphs, measures, details: below, table: tabled, rows: pageRows, runs, texts: coded } = JSON.parse(content("data"));
  // Each text is what it shares with the one before, and the rest.
  const texts = [];
  for (let i = 0, last = ""; i < coded.length; i += 2) texts.push((last = last.slice(0, coded[i]) + coded[i + 1]));
  const lines = content("details").split("\n");
  const at = (column, i) => (Array.isArray(column) ? column[i] : column);
  const text = (column, i) => {
    const number = at(column, i);
    return number === null ? "" : texts[number];
  };

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

  const number = (v) => {
    if (v === null) return "–";
    if (v === 0) return "0";
    const size = Math.abs(v);
    if (size < 0.01 || size >= 1e5) return v.toExponential(1);
    return v.toFixed(Math.min(Math.max(2 - Math.floor(Math.log10(size)), 0), 4));
  };
  const scaled = (n, units) => {
    let unit = 0;
    for (; n >= 999.5 && unit + 1 < units.length; unit++) n /= 1000;
    return `${n.toFixed(unit === 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2)} ${units[unit]}`.trim();
  };
  const bytes = (n) => scaled(n, ["B", "kB", "MB", "GB", "TB", "PB"]);
  const count = (n) => scaled(n, ["", "k", "M", "G", "T", "P"]);
  const forms = { real: number, share: (v) => `${(100 * v).toFixed(1)} %`, bits: (v) => `${v.toFixed(2)} bits`, count: String };
  const measured = (measure, v) => (v === null ? "–" : forms[measure[2]](v));
  const thousands = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u2009");
  const plural = (n, noun) => `${thousands(n)} ${noun}${n === 1 ? "" : "s"}`;

  const word = (verdict) => (verdict < 0 ? "not judged" : verdicts[verdict]);
  const style = (verdict) => (verdict < 0 ? "none" : verdicts[verdict]);
  const badge = (verdict) => {
    const sign = make("span", { textContent: verdict < 0 ? "–" : glyphs[verdict] });
    sign.setAttribute("aria-hidden", "true");
    return make("span", { className: `badge v-${style(verdict)}` }, sign, ` ${word(verdict)}`);
  };
  // A name, and a sentence with names, may break after dots, underscores and slashes, but for a number's.
  const broken = (name) => name.split(/(?<=[._/])(?!\d)/).flatMap((part) => [part, document.createElement("wbr")]);

  const collator = new Intl.Collator(undefined, { numeric: true });
  // Places of texts in their order, so that each text is compared once and not in every row.
  const ranks = (column, count) => {
    const used = [...new Set(Array.from({ length: count }, (_, i) => at(column, i)))];
    used.sort((a, b) => collator.compare(a === null ? "" : texts[a], b === null ? "" : texts[b]));
    const rank = new Map(used.map((number, i) => [number, i]));
    return (i) => rank.get(at(column, i));
  };

  // Draws the rows of a table that are wanted, a page at a time. `columns` tell the text of a heading's column or its
  // number to sort by; `cells` makes a row's cells, and `details` what stands below a row that is opened.
  const tabulate = (card, { size, noun, columns, name, verdict, cells, details, mark, link }) => {
    const own = (css) => [...card.querySelectorAll(css)].find((found) => found.closest(".card") === card);
    const body = own("tbody");
    const headings = [...own("thead").querySelectorAll("th")];
    const [filter, chosen, shown, pages] = [".filter", "select.verdict", ".shown", ".pages"].map(own);
    const opened = new Map();
    let order = Array.from({ length: size }, (_, i) => i);
    let wanted = order;
    let page = 0;
    own(".more")?.remove();

    const toggle = (i, row, button) => {
      const open = opened.get(i);
      if (open) {
        open.remove();
        opened.delete(i);
      } else {
        const view = make("tr", { className: "detail" }, make("td", { colSpan: headings.length }, details(i)));
        opened.set(i, view);
        row.after(view);
      }
      button.setAttribute("aria-expanded", String(!open));
    };
    const drawn = (i) => {
      const row = make("tr", {}, ...cells(i));
      row.dataset[mark] = i;
      const cell = row.querySelector("th");
      if (link?.(i)) cell.replaceChildren(Object.assign(make("a", {}, ...cell.childNodes), { href: link(i) }));
      else if (details) {
        const button = make("button", { type: "button", className: "open" }, ...cell.childNodes);
        button.setAttribute("aria-expanded", String(opened.has(i)));
        button.addEventListener("click", () => toggle(i, row, button));
        cell.replaceChildren(button);
      }
      return opened.has(i) ? [row, opened.get(i)] : [row];
    };
    const show = () => {
      const from = page * pageRows;
      body.replaceChildren(...wanted.slice(from, from + pageRows).flatMap(drawn));
      pages.hidden = wanted.length <= pageRows;
      pages.querySelector(".range").textContent = ` ${thousands(from + 1)} to ${thousands(Math.min(from + pageRows, wanted.length))} of ${thousands(wanted.length)} `;
      pages.querySelector(".previous").disabled = page === 0;
      pages.querySelector(".next").disabled = from + pageRows >= wanted.length;
    };
    const turn = (by) => {
      page += by;
      show();
      own("table").scrollIntoView({ block: "start" });
    };
    pages.querySelector(".previous").addEventListener("click", () => turn(-1));
    pages.querySelector(".next").addEventListener("click", () => turn(1));

    const lower = [];
    const apply = () => {
      const part = filter ? filter.value.toLowerCase() : "";
      const only = chosen ? chosen.value : "";
      const level = only === "none" ? -1 : verdicts.indexOf(only);
      wanted = order.filter((i) => {
        const own = verdict(i);
        if (only && (only === "below" ? own <= 1 : own !== level)) return false;
        return !part || (lower[i] ??= name(i).toLowerCase()).includes(part);
      });
      page = 0;
      if (shown) shown.textContent = `${thousands(wanted.length)} of ${plural(size, noun)}`;
      for (const button of card.querySelectorAll(".counts button")) button.setAttribute("aria-pressed", String(button.dataset.verdict === only));
      show();
    };
    const sort = (column, down) => {
      for (const other of headings) other.removeAttribute("aria-sort");
      headings[column].setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = columns[column]();
      const keys = order.map((_, i) => key(i));
      order.sort((a, b) => {
        const [x, y] = [keys[a], keys[b]];
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return (down ? y - x : x - y) || (down ? b - a : a - b);
      });
    };
    headings.forEach((heading, column) => {
      const button = make("button", { type: "button", textContent: heading.textContent });
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        sort(column, heading.getAttribute("aria-sort") === "ascending");
        apply();
      });
    });
    filter?.addEventListener("input", apply);
    chosen?.addEventListener("change", apply);

    if (chosen) {
      const tally = new Map();
      for (let i = 0; i < size; i++) tally.set(verdict(i), (tally.get(verdict(i)) ?? 0) + 1);
      for (const option of chosen.options) {
        const level = option.value === "none" ? -1 : verdicts.indexOf(option.value);
        if (option.value === "none" || level >= 0) {
          option.hidden = !tally.has(level);
          option.textContent += ` (${thousands(tally.get(level) ?? 0)})`;
        }
      }
      own(".controls").hidden = false;
    }
    const worst = headings.findIndex((heading) => heading.hasAttribute("aria-sort"));
    if (worst >= 0) {
      // The worst first, and otherwise as they were.
      order.sort((a, b) => verdict(b) - verdict(a) || a - b);
    }
    apply();
    return { filtered: apply, go: (i) => {
      const place = wanted.indexOf(i);
      if (place < 0) return;
      page = Math.floor(place / pageRows);
      show();
      const row = [...body.rows].find((row) => row.dataset[mark] === String(i));
      if (!opened.has(i)) row.querySelector("button.open")?.click();
      row.scrollIntoView({ block: "start" });
    } };
  };

  const LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
  // Exact counts, or shares of the largest.
  const counted = (coded) => {
    if (typeof coded !== "string") return { first: coded[0], counts: coded[1], told: String };
    const [first, levels] = coded.split(" ");
    const counts = [...levels].map((level) => LEVELS.indexOf(level));
    const all = counts.reduce((sum, n) => sum + n, 0);
    return { first: Number(first), counts, told: (n) => `about ${((100 * n) / all).toFixed(n / all < 0.02 ? 1 : 0)} %` };
  };
  const histogram = (step, facts, coded) => {
    const box = make("div", { className: "histogram" });
    const { first, counts, told } = coded ? counted(coded) : { counts: [] };
    if (counts.length) {
      const [width, height, left, bottom] = [480, 180, 8, 28];
      const most = Math.max(...counts);
      const bar = (width - 2 * left) / counts.length;
      const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of |w| at step ${step}: most elements between 2^${first + counts.indexOf(most)} and twice that` });
      counts.forEach((n, i) => {
        const size = ((height - bottom - 8) * n) / most;
        const rect = draw("rect", { x: left + i * bar + 1, y: height - bottom - size, width: Math.max(bar - 2, 1), height: size });
        rect.append(draw("title", {}, `2^${first + i} ≤ |w| < 2^${first + i + 1}: ${told(n)}`));
        svg.append(rect);
      });
      const every = Math.ceil(counts.length / 6);
      counts.forEach((_, i) => {
        if (i % every === 0) svg.append(draw("text", { x: left + i * bar, y: height - 10 }, number(2 ** (first + i))));
      });
      box.append(svg);
    }
    const list = make("dl", {});
    measures.slice(0, below).forEach(([name, why, form], i) => list.append(make("dt", { textContent: name, title: why }), make("dd", { textContent: form === "real" ? number(facts[i]) : String(facts[i]) })));
    box.append(list);
    return box;
  };

  // Measurements of the tensor in row `i`, at each checkpoint that has them.
  const measurements = (line, i) => {
    const { tensors, steps = [], cells = [], histograms } = line;
    const facts = cells.map((columns) => columns.map((column, m) => (column === "=" ? at(tensors.last[tabled.indexOf(m)], i) : at(column, i))));
    const known = steps.flatMap((_, c) => (facts[c].some((v) => v !== null) ? [c] : []));
    const box = make("div", {});
    const view = make("div", {});
    const show = (c) => view.replaceChildren(histogram(steps[c], facts[c], histograms && histograms[c][i]));
    if (!steps.length) box.append("Left out to keep the page small; `ckpt inspect --tensor` shows it.");
    else if (!known.length) box.append("No measurements of this tensor.");
    else if (known.length > 1) {
      const label = make("span", {});
      const slider = make("input", { type: "range", min: 0, max: known.length - 1, value: known.length - 1 });
      const move = () => {
        const c = known[slider.value];
        label.textContent = ` step ${steps[c]}`;
        slider.setAttribute("aria-valuetext", `step ${steps[c]}`);
        show(c);
      };
      slider.addEventListener("input", move);
      box.append(make("label", {}, "Checkpoint ", slider), label);
      move();
    } else show(known[0]);
    box.append(view);
    return box;
  };

  const cell = (className, ...children) => make("td", { className }, ...children);
  const heading = (name) => Object.assign(make("th", {}, ...broken(name)), { scope: "row" });

  const listTensors = (card, line) => {
    const { tensors } = line;
    if (!tensors) return card.remove();
    const { count: size, all, name, dtype, shape, verdict, why, first, last, below: fell } = tensors;
    const named = (i) => texts[Array.isArray(name) ? name[i] : name + i];
    const over = "over" in card.dataset;
    const reals = tabled.flatMap((m, t) => (over && measures[m][3] ? [[m, first[t]], [m, last[t]]] : [[m, last[t]]]));
    const order = (column) => () => (i) => at(column, i);
    tabulate(card, {
      size,
      noun: "tensor",
      mark: "layer",
      name: named,
      verdict: (i) => at(verdict, i),
      columns: [
        () => {
          const sorted = Array.from({ length: size }, (_, i) => i).sort((a, b) => collator.compare(named(a), named(b)));
          const rank = [];
          sorted.forEach((i, place) => (rank[i] = place));
          return (i) => rank[i];
        },
        () => ranks(dtype, size),
        () => ranks(shape, size),
        ...reals.map(([, column]) => order(column)),
        ...(over ? [() => (i) => fell[i] && fell[i][0]] : []),
        order(verdict),
      ],
      cells: (i) => {
        const since = over && fell[i];
        const level = at(verdict, i);
        return [
          heading(named(i)),
          cell("", text(dtype, i)),
          cell("", text(shape, i)),
          ...reals.map(([m, column]) => cell("num", measured(measures[m], at(column, i)))),
          ...(over ? [cell("num", since ? make("span", { title: since[2] === null ? "" : texts[since[2]] }, texts[since[1]]) : "–")] : []),
          cell("", badge(level), ...(at(why, i) === null ? [] : [make("span", { className: "muted" }, " ", ...broken(text(why, i)))])),
        ];
      },
      details: (i) => measurements(line, i),
    });
    if (size < all) card.append(make("p", { className: "muted" }, `${plural(all - size, "tensor")} that ${all - size === 1 ? "is" : "are"} no worse left out, to keep the page small.`));
  };

  const listCheckpoints = (card, rows) =>
    tabulate(card, {
      size: rows.length,
      noun: "checkpoint",
      mark: "checkpoint",
      name: (i) => texts[rows[i][1]],
      verdict: (i) => rows[i][7],
      columns: [0, 1, 2, 4, 5, 6, 7, 8].map((field) => () => {
        if (field === 1 || field === 2) return ranks(rows.map((row) => row[field]), rows.length);
        if (field === 8) return (i) => rows[i][8].length;
        return (i) => rows[i][field];
      }),
      cells: (i) => {
        const [step, path, format, marks, loss, parameters, size, verdict, why] = rows[i];
        const file = heading(texts[path]);
        if (marks & 2) file.append(" (not in the series)");
        const [first, ...more] = why.map((n) => texts[n]);
        const reasons = more.length ? make("details", {}, make("summary", {}, first), make("ul", {}, ...more.map((why) => make("li", {}, why)))) : first || "";
        return [
          cell("num", step === null ? "?" : String(step)),
          file,
          cell("", texts[format] + (marks & 1 ? " (damaged)" : "")),
          cell("num", number(loss)),
          cell("num", count(parameters)),
          cell("num", bytes(size)),
          cell("", badge(verdict)),
          cell("", reasons),
        ];
      },
    });

  // What is known of a run, where the page has no section for it.
  const summary = (line) => {
    const { title, verdict, sentences = [], findings = [], warnings = [], checkpoints = [], of = 0 } = line;
    const box = make("div", {});
    if (title === undefined) {
      box.append(make("p", { className: "muted" }, "Left out to keep the page small: report fewer checkpoints at a time to see it."));
      return box;
    }
    box.append(make("p", { className: `verdict-title v-${style(verdict)}` }, texts[title]), ...sentences.map((n) => make("p", {}, texts[n])));
    for (const [title, sentence, those, evidence, advice] of findings) {
      const facts = make("dl", { className: "shown-by" });
      for (const [name, fact] of evidence) facts.append(make("dt", {}, texts[name]), make("dd", {}, texts[fact]));
      const finding = make("div", { className: "finding" }, make("h4", {}, texts[title]), make("p", { className: "said" }, texts[sentence]), make("p", { className: "muted" }, texts[those]));
      if (advice.length) finding.append(make("h5", {}, "What to do"), make("ol", {}, ...advice.map((n) => make("li", {}, texts[n]))));
      finding.append(make("h5", {}, "Evidence"), facts);
      box.append(finding);
    }
    if (checkpoints.length === 1) {
      const [step, path, format, marks, loss, parameters, size, , why] = checkpoints[0];
      const facts = make("dl", { className: "shown-by" });
      const fact = (name, ...values) => facts.append(make("dt", {}, name), make("dd", {}, ...values));
      fact("file", ...broken(texts[path]));
      fact("format", texts[format] + (marks & 1 ? " (damaged)" : ""));
      if (step !== null) fact("step", String(step));
      if (loss !== null) fact("loss", number(loss));
      fact("holds", `${count(parameters)} parameters in ${bytes(size)}`);
      if (why.length) fact("why", make("ul", {}, ...why.map((n) => make("li", {}, texts[n]))));
      box.append(facts);
    } else if (checkpoints.length) {
      const list = make("ol", { className: "plain" });
      for (const [step, path, , , , , , verdict] of checkpoints) list.append(make("li", {}, `step ${step ?? "?"} `, badge(verdict), " ", ...broken(texts[path])));
      if (checkpoints.length < of) box.append(make("p", { className: "muted" }, `The last ${checkpoints.length} of ${of} checkpoints:`));
      box.append(list, make("p", { className: "muted" }, "A report on this run alone has its charts."));
    }
    if (warnings.length) box.append(make("h4", {}, "Warnings"), make("ul", {}, ...warnings.map((n) => make("li", {}, texts[n]))));
    return box;
  };

  const parsed = (place) => JSON.parse(lines[place]);
  const settle = (root, line) => {
    for (const card of root.querySelectorAll(".tensors")) listTensors(card, line);
    for (const card of root.querySelectorAll(".checkpoints")) if (line.checkpoints) listCheckpoints(card, line.checkpoints);
  };
  // The section of a run whose row is opened.
  const section = (place) => {
    const line = parsed(place);
    const folded = document.getElementById(`section${place}`);
    const box = make("div", { className: "opened" });
    if (folded) box.append(folded.content.cloneNode(true));
    else {
      const over = line.tensors && line.tensors.first ? "tensors-over" : "tensors-once";
      box.append(summary(line), document.getElementById(over).content.cloneNode(true));
    }
    settle(box, line);
    return box;
  };

  for (const run of document.querySelectorAll("main > .run")) settle(run, parsed(Number(run.id.slice(3))));

  const card = document.querySelector(".overview");
  if (card) {
    const { count: size, name, verdict, why, what, step, parameters, size: large, section: apart } = runs;
    for (const entry of card.querySelectorAll(".counts li")) {
      const button = make("button", { type: "button" }, ...entry.childNodes);
      button.dataset.verdict = entry.dataset.verdict;
      button.addEventListener("click", () => {
        const chosen = card.querySelector("select.verdict");
        chosen.value = chosen.value === entry.dataset.verdict ? "" : entry.dataset.verdict;
        listed.filtered();
      });
      entry.replaceChildren(button);
    }
    const order = (column) => () => (i) => at(column, i);
    const listed = tabulate(card, {
      size,
      noun: "row",
      mark: "run",
      name: (i) => text(name, i),
      verdict: (i) => at(verdict, i),
      columns: [() => ranks(name, size), order(verdict), () => ranks(why, size), () => ranks(what, size), order(step), order(parameters), order(large)],
      cells: (i) => {
        const row = heading(text(name, i));
        row.className = "c-name";
        const known = at(step, i);
        return [
          row,
          cell("c-verdict", badge(at(verdict, i))),
          cell("c-why", ...broken(text(why, i))),
          cell("c-what", text(what, i)),
          cell("num c-step", known === null ? "–" : String(known)),
          cell("num c-count", at(parameters, i) === null ? "–" : count(at(parameters, i))),
          cell("num c-size", bytes(at(large, i))),
        ];
      },
      details: section,
      link: (i) => at(apart, i) && `#run${i}`,
    });
    const follow = () => {
      const run = /^#run(\d+)$/.exec(location.hash);
      if (run && !at(apart, Number(run[1]))) listed.go(Number(run[1]));
    };
    addEventListener("hashchange", follow);
    follow();
  }
  document.documentElement.dataset.ready = "";
})();
