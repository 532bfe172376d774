"use strict";
// The calls of a run are drawn when they are opened, from the JSON beside them. All words are strangers': they get into
// the page as text nodes and attributes' values, never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const LANE = 72, STEPS = 20, FOOT = 18, GAP = 4;
  const METRICS = JSON.parse(document.getElementById("metrics").textContent);
  const POINTS = 4000;  // of a side of a waveform, at most

  function put(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(child);
    return node;
  }
  const el = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
  const sv = (tag, attributes, ...children) => put(document.createElementNS(SVG, tag), attributes, children);
  const words = (text) => el("bdi", {}, text || "");

  function figure(value, unit) {
    if (value === null || value === undefined || !isFinite(value)) return "–";
    const size = Math.abs(value);
    const text = value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2).replace(/\.0+$/, "");
    const sign = unit === "pct" ? "%" : unit === "MOS" ? "" : unit;
    return sign ? text + " " + sign : text;
  }
  function clock(at) {
    const sign = at < 0 ? "−" : "", whole = Math.abs(at), minutes = Math.floor(whole / 60);
    const seconds = (whole - 60 * minutes).toFixed(2);
    return sign + (minutes ? minutes + ":" + seconds.padStart(5, "0") : seconds) + (minutes ? "" : " s");
  }
  function grade(name, value) {
    const metric = METRICS[name];
    if (!metric || value === null || value === undefined || !metric.better) return "";
    const past = (bound) => metric.better === "low" ? value > bound : value < bound;
    if (metric.bad !== null && past(metric.bad)) return "bad";
    if (metric.good !== null) return past(metric.good) ? "fair" : "good";
    return metric.bad !== null ? "good" : "";
  }

  // --- waveform ---

  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const LEVEL = new Map([...ALPHABET].map((sign, index) => [sign, index / 63]));

  function outline(peaks, seconds, x, middle, half) {
    const count = peaks.length, each = Math.max(1, Math.ceil(count / POINTS)), upper = [], lower = [];
    for (let i = 0; i < count; i += each) {
      let level = 0;
      for (let j = i; j < Math.min(i + each, count); j++) level = Math.max(level, LEVEL.get(peaks[j]) || 0);
      const at = x(Math.min(seconds, i * 0.02)).toFixed(1), height = Math.max(0.4, level * half);
      upper.push(at + " " + (middle - height).toFixed(1));
      lower.push(at + " " + (middle + height).toFixed(1));
    }
    return count ? "M" + upper.join("L") + "L" + lower.reverse().join("L") + "Z" : "";
  }

  class Wave {
    constructor(call) {
      this.call = call;
      this.zoom = 1;
      this.at = 0;
      this.told = el("p", { class: "told", "aria-live": "polite" }, "Point at the picture, or go along it with ← and →.");
      this.box = el("div", { class: "wave" });
      this.draw();
    }

    node() {
      const zoom = (factor) => () => { this.zoom = Math.min(64, Math.max(1, this.zoom * factor)); this.draw(); this.show(this.at); };
      const key = (sign, text) => el("li", { class: sign }, el("i", {}), text);
      return el("div", {},
        this.box, this.told,
        el("div", { class: "tools" },
          el("button", { type: "button", onclick: zoom(0.5) }, "− narrower"),
          el("button", { type: "button", onclick: zoom(2) }, "+ wider"),
          el("ul", { class: "legend" }, key("c", "caller"), key("a", "agent"), key("s", "barge-in, and how long the agent went on"),
            key("h", "hole, click or failed assertion"), key("d", "nobody speaks"))));
    }

    draw() {
      const { call } = this, seconds = Math.max(call.seconds, 0.1), time = call.timeline;
      const room = (this.box.clientWidth || this.box.parentNode?.clientWidth || 1000) - 2;
      const width = Math.max(room, 560) * this.zoom, height = STEPS + 2 * LANE + GAP + FOOT + 12;
      const x = (at) => 6 + (width - 12) * Math.min(Math.max(at, 0), seconds) / seconds;
      const top = { caller: STEPS, agent: STEPS + LANE + GAP }, end = top.agent + LANE;
      this.x = x;
      this.back = (pixel) => Math.min(seconds, Math.max(0, (pixel - 6) / (width - 12) * seconds));
      const svg = sv("svg", {
        width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "group",
        "aria-label": "Waveform of both sides: arrow keys move along it, space plays",
      });
      const add = (tag, attributes, title) => svg.append(sv(tag, attributes, title ? sv("title", {}, title) : null));
      const label = (at, y, text, name) => svg.append(sv("text", { x: at, y, class: name }, text));
      const span = (from, to, y, tall, name, title, least) =>
        add("rect", { x: x(from), y, width: Math.max(least || 1, x(to) - x(from)), height: tall, class: name }, title);

      for (const side of ["caller", "agent"]) span(0, seconds, top[side], LANE, "lane");
      for (const [from, to] of time.dead_air || [])
        span(from, to, top.caller, 2 * LANE + GAP, "dead", `nobody speaks for ${figure(to - from, "s")}`);
      for (const turn of call.turns)
        span(turn.start, turn.end, top[turn.who] ?? top.caller, LANE, `turn ${turn.who === "agent" ? "a" : "c"}`,
          `${turn.who}, ${clock(turn.start)} to ${clock(turn.end)}: ${turn.text || turn.name || ""}`);
      for (const side of ["caller", "agent"])
        add("path", { d: outline(call.peaks[side] || "", seconds, x, top[side] + LANE / 2, LANE / 2 - 3), class: side[0] });
      let free = -1;
      for (const step of time.steps || []) {
        const from = x(step.at), to = Math.max(from + 3, x(step.until));
        add("rect", { x: from, y: 2, width: to - from, height: STEPS - 5, class: "step" + (step.failed ? " failed" : "") },
          `step ${step.what} ${step.name || ""} ${step.failed || ""}`);
        add("line", { x1: from, x2: from, y1: 2, y2: end, class: "steptick" });
        const text = step.what.replace("_", " ") + (step.name ? " " + step.name : "");
        const fits = Math.floor((to - from - 4) / 6.2);
        if (fits >= 3 && from >= free) {
          label(from + 3, STEPS - 7, text.length > fits ? text.slice(0, fits - 1) + "…" : text, "");
          free = from + 6.2 * Math.min(fits, text.length);
        }
      }
      for (const event of time.events || [])
        add("line", { x1: x(event.at), x2: x(event.at), y1: top.caller, y2: end + 4, class: "event" }, `${event.what} ${event.detail || ""}`);
      for (const [from, to] of time.holes || [])
        span(from, to, top.agent, LANE, "hole", `hole of ${Math.round(1000 * (to - from))} ms in the agent's speech`, 3);
      const notch = (at, y, name, title) =>
        add("path", { d: `M${x(at) - 4} ${y}h8l-4 8z`, class: name }, title);
      for (const at of time.clicks || []) notch(at, top.agent, "click", `click at ${clock(at)}`);
      for (const at of time.agent_interrupts || []) notch(at, top.agent, "stop", "the agent began to speak into the caller's turn");
      for (const one of time.interruptions || []) {
        const what = one.aside ? "back-channel" : "interruption";
        const stop = one.stop_ms === null || one.stop_ms === undefined ? null : one.stop_ms / 1000;
        const title = stop === null ? `${what}: the agent talked on` : `${what}: the agent stopped after ${Math.round(one.stop_ms)} ms`;
        const y = top.agent - GAP / 2, to = x(one.at + (stop ?? 0.3));
        add("path", { d: `M${x(one.at)} ${top.caller + 4}V${y}H${to}V${stop === null ? y : end - 4}`, class: "stop" }, title);
        const aside = to > width - 80;
        label(to + (aside ? -4 : 4), end - 5, stop === null ? "talked on" : `stop ${Math.round(one.stop_ms)} ms`, aside ? "stop left" : "stop");
      }
      call.turns.forEach((turn) => {
        if (turn.v2v_ms === undefined) return;
        const name = grade("v2v_ms", turn.v2v_ms), from = x(turn.start - turn.v2v_ms / 1000), y = top.agent + 10;
        add("line", { x1: from, x2: x(turn.start), y1: y, y2: y, class: "gap " + name }, `answered after ${Math.round(turn.v2v_ms)} ms`);
        label(from, y + 13, `${Math.round(turn.v2v_ms)} ms`, name);
      });
      const key = (at, y, digit, title) => {
        add("circle", { cx: x(at), cy: y, r: 8, class: "key" }, title);
        label(x(at), y + 4, digit, "digit");
      };
      for (const one of time.pressed || []) key(one.at, top.caller + LANE - 11, one.what, `the caller presses ${one.what}`);
      for (const one of time.keys_heard || []) key(one.at, top.agent + LANE - 11, one.what, `the agent presses ${one.what} (${one.way || ""})`);
      for (const finding of call.findings)
        if (!finding.ok && finding.at !== null) notch(finding.at, end + 1, "fault", `${finding.kind}: ${finding.message}`);

      const units = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
      const unit = units.find((one) => (width - 12) * one / seconds >= 56) || 1200;
      for (let at = 0; at <= seconds; at += unit) {
        add("line", { x1: x(at), x2: x(at), y1: end, y2: end + 4, class: "steptick" });
        if (x(at) < width - 30) label(x(at), end + FOOT + 4, unit < 1 ? at.toFixed(1) + " s" : Math.round(at) + " s", "");
      }
      this.cursor = sv("line", { y1: 0, y2: end, class: "cursor", visibility: "hidden" });
      this.head = sv("line", { y1: 0, y2: end, class: "head", visibility: "hidden" });
      svg.append(this.head, this.cursor);
      svg.addEventListener("pointermove", (event) => this.show(this.back(event.offsetX)));
      svg.addEventListener("click", (event) => this.seek(this.back(event.offsetX), true));
      svg.addEventListener("keydown", (event) => {
        const by = { ArrowLeft: -0.1, ArrowRight: 0.1, PageUp: -5, PageDown: 5 }[event.key];
        if (by !== undefined) this.show(this.at + by * (event.shiftKey ? 10 : 1));
        else if (event.key === "Home") this.show(0);
        else if (event.key === "End") this.show(seconds);
        else if (event.key === " " || event.key === "Enter") this.seek(this.at, true);
        else return;
        event.preventDefault();
      });
      this.box.replaceChildren(svg);
    }

    show(at) {
      const { call } = this;
      this.at = Math.min(Math.max(at, 0), call.seconds);
      put(this.cursor, { x1: this.x(this.at), x2: this.x(this.at), visibility: "visible" }, []);
      const here = (from, to) => from - 0.01 <= this.at && this.at <= to + 0.01;
      const near = 4 * (this.back(10) - this.back(9));
      const time = call.timeline, said = [];
      for (const turn of call.turns) if (here(turn.start, turn.end)) said.push(`${turn.who}: ${turn.text || turn.name || "speaks"}`);
      for (const step of time.steps || []) if (here(step.at, step.until)) said.push(`step ${step.what}${step.name ? " " + step.name : ""}`);
      for (const [from, to] of time.holes || []) if (here(from, to)) said.push(`hole of ${Math.round(1000 * (to - from))} ms`);
      for (const [from, to] of time.dead_air || []) if (here(from, to)) said.push(`nobody speaks for ${figure(to - from, "s")}`);
      for (const one of [...(time.events || []), ...(time.pressed || []), ...(time.keys_heard || [])])
        if (Math.abs(one.at - this.at) <= near) said.push(`${one.what} ${one.detail || ""}`);
      this.told.replaceChildren(el("b", {}, clock(this.at)), ...said.flatMap((one) => [" · ", words(one)]));
    }

    seek(at, play) {
      this.show(at);
      const left = this.x(this.at) - this.box.scrollLeft;
      if (left < 0 || left > this.box.clientWidth) this.box.scrollLeft += left - this.box.clientWidth / 2;
      if (!this.audio) return;
      this.audio.currentTime = this.at;
      if (play) this.audio.play().catch(() => this.told.append(" · the recording cannot be played"));
    }

    played() {
      const at = this.x(this.audio.currentTime);
      put(this.head, { x1: at, x2: at, visibility: "visible" }, []);
    }
  }

  // --- the parts of a call ---

  function part(title, ...children) {
    const there = children.flat().filter(Boolean);
    return there.length ? [el("h3", {}, title), ...there] : [];
  }

  function bars(call) {
    const rows = [];
    for (const [field, metric, what] of [["v2v_ms", "v2v_ms", "reply to"], ["barge_stop_ms", "barge_stop_ms", "stop for"]])
      for (const turn of call.turns) if (turn[field] !== undefined) rows.push([metric, what, turn, turn[field]]);
    if (!rows.length) return [];
    const most = Math.max(...rows.map((row) => row[3]), ...rows.map((row) => (METRICS[row[0]].bad || 0) * 1.1));
    rows.sort((one, other) => one[2].start - other[2].start);
    return [el("div", { class: "bars" }, rows.flatMap(([metric, what, turn, value]) => {
      const { good, bad } = METRICS[metric];
      const tick = (at) => at ? sv("line", { x1: 100 * at / most, x2: 100 * at / most, y1: 0, y2: 14, class: "tick" }) : null;
      const picture = sv("svg", { viewBox: "0 0 100 14", preserveAspectRatio: "none", "aria-hidden": "true" },
        sv("rect", { width: 100, height: 14, class: "track" }),
        sv("rect", { width: 100 * value / most, y: 2, height: 10, class: grade(metric, value) }), tick(good), tick(bad));
      return [el("span", {}, moment(call, turn.start), " ", what, " ", words(turn.name || "the caller")), el("span", { class: "bar" }, picture),
        el("span", { class: "n " + grade(metric, value) }, figure(value, "ms"))];
    })), el("p", { class: "soft" }, `Dashed: good up to ${METRICS.v2v_ms.good} ms and bad beyond ${METRICS.v2v_ms.bad} ms for an answer, `,
      `${METRICS.barge_stop_ms.good} and ${METRICS.barge_stop_ms.bad} ms for a stop.`)];
  }

  const moment = (call, at) =>
    el("button", { type: "button", class: "at", title: "Show this moment", onclick: () => call.wave.seek(at, false) }, clock(at));

  function transcript(call) {
    return call.turns.length ? [el("ol", { class: "turns" }, call.turns.map((turn) => {
      const more = [];
      if (turn.v2v_ms !== undefined) more.push(el("span", { class: grade("v2v_ms", turn.v2v_ms) }, ` · after ${Math.round(turn.v2v_ms)} ms`));
      if (turn.barge_stop_ms !== undefined) more.push(el("span", { class: grade("barge_stop_ms", turn.barge_stop_ms) }, ` · the agent stopped after ${Math.round(turn.barge_stop_ms)} ms`));
      if (turn.cut) more.push(el("span", { class: "bad" }, " · cut off"));
      const said = turn.text ? words(turn.text) : el("span", { class: "soft" }, `speaks for ${figure(turn.end - turn.start, "s")}; not written down`);
      return el("li", { class: turn.who }, moment(call, turn.start), el("span", { class: "who" }, turn.who), el("span", {}, said, more));
    }))] : [];
  }

  function ladder(call) {
    if (!call.ladder.length) return [];
    const rows = call.ladder.flatMap((rung) => {
      const name = `rung ${rung.out ? "out" : "in"}${rung.again ? " again" : ""}`;
      const title = [words(rung.title), rung.again ? el("b", {}, " again") : null, el("span", { class: "vh" }, rung.out ? " from caller to agent" : " from agent to caller")];
      const lane = el("div", { class: "lane" });
      if (rung.text) {
        const button = el("button", { type: "button", class: name, "aria-expanded": "false", onclick: () => {
          const open = lane.querySelector("pre");
          button.setAttribute("aria-expanded", open ? "false" : "true");
          if (open) open.remove(); else lane.append(el("pre", { tabindex: 0 }, rung.text));
        } }, title);
        lane.append(button);
      } else lane.append(el("div", { class: name }, title));
      return [el("div", { class: "t" }, clock(rung.at)), lane];
    });
    const more = call.ladder_left_out ? el("p", { class: "soft" }, `… and ${call.ladder_left_out} more in the JSON`) : null;
    return [el("div", { class: "ladder" }, el("div", { class: "heads" }, el("span", {}, "caller"), el("span", {}, "agent")), rows), more];
  }

  function metrics(call) {
    const rows = [];
    let none = 0;
    for (const [name, metric] of Object.entries(METRICS)) {
      const value = call.metrics[name];
      if (value === null || value === undefined || (Array.isArray(value) && !value.length)) { none += 1; continue; }
      const all = Array.isArray(value) ? value : [value];
      const worst = all.reduce((one, other) => (metric.better === "high" ? other < one : other > one) ? other : one);
      const how = grade(name, worst), shown = all.slice(0, 20).map((one) => figure(one, "")).join(", ") + (all.length > 20 ? ", …" : "");
      const bounds = metric.better && (metric.good !== null || metric.bad !== null)
        ? `${metric.better === "low" ? "≤" : "≥"} ${figure(metric.good ?? metric.bad, "")}${metric.good !== null && metric.bad !== null && metric.bad !== metric.good ? `, bad ${metric.better === "low" ? ">" : "<"} ${figure(metric.bad, "")}` : ""}` : "";
      rows.push(el("tr", {}, el("td", {}, el("code", {}, name)), el("td", { class: "n " + how }, shown + " " + (metric.unit === "pct" ? "%" : metric.unit)),
        el("td", { class: how }, how), el("td", { class: "soft" }, bounds), el("td", { class: "soft" }, metric.meaning)));
    }
    if (!rows.length) return [];
    return [el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Metrics" }, el("table", {},
      el("thead", {}, el("tr", {}, ["metric", "measured", "", "good", "what it is"].map((text, index) => el("th", { scope: "col", class: index === 1 ? "n" : "" }, text)))),
      el("tbody", {}, rows))), none ? el("p", { class: "soft" }, `${none} more had nothing to be measured from.`) : null];
  }

  function checks(call) {
    return call.findings.length ? [el("ul", { class: "checks" }, call.findings.map((finding) => {
      const mark = finding.ok ? "✓" : finding.gate ? "✗" : "!";
      return el("li", {}, el("span", { class: "mark " + (finding.ok ? "good" : finding.gate ? "bad" : "fair") }, mark),
        finding.at === null ? null : [moment(call, finding.at), " "], words(finding.message), finding.gate ? null : " (does not count)",
        finding.where ? [" ", el("code", { class: "soft" }, finding.where)] : null);
    }))] : [];
  }

  function recording(call) {
    const audio = call.audio ? el("audio", { controls: true, preload: "none", src: call.audio }) : null;
    if (audio) {
      call.wave.audio = audio;
      audio.addEventListener("timeupdate", () => call.wave.played());
      audio.addEventListener("error", () => audio.replaceWith(el("span", { class: "soft" }, "The recording is not there any more.")));
    }
    return audio ? el("div", { class: "player" }, audio, el("span", { class: "soft" }, "caller left, agent right")) : null;
  }

  const drawn = new Map();
  function open(details) {
    if (drawn.has(details.id)) return drawn.get(details.id);
    const call = JSON.parse(document.getElementById("data-" + details.id).textContent), view = details.querySelector(".view");
    call.wave = new Wave(call);
    const faults = call.timeline.faults || [];
    const heard = call.peaks.caller || call.peaks.agent;
    view.append(...part("Both sides", heard ? call.wave.node() : null, recording(call)), ...part("How fast", ...bars(call)),
      ...part("What was said", ...transcript(call)), ...part("Assertions", ...checks(call)),
      ...part("Against the protocol", ...(faults.length ? [el("ul", {}, faults.map((one) => el("li", {}, words(String(one)))))] : [])),
      ...part("Signalling", ...ladder(call)), ...part("Measurements", ...metrics(call)));
    call.wave.draw();
    drawn.set(details.id, call);
    return call;
  }

  // --- the page ---

  const calls = [...document.querySelectorAll("details.call")];
  for (const details of calls) details.addEventListener("toggle", () => { if (details.open) open(details); });

  function visit(id, at) {
    const details = document.getElementById(id);
    if (!details || !details.matches("details.call")) return false;
    details.hidden = false;
    details.open = true;
    const call = open(details);
    details.scrollIntoView();
    if (at !== null && isFinite(at)) call.wave.seek(at, false);
    return true;
  }
  function follow() {
    const [id, at] = decodeURIComponent(location.hash.slice(1)).split("@");
    if (id) visit(id, at === undefined ? null : Number(at));
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-call]");
    if (!link) return;
    const at = link.dataset.at === undefined ? null : Number(link.dataset.at);
    if (!visit(link.dataset.call, at)) return;
    event.preventDefault();
    history.pushState(null, "", "#" + link.dataset.call + (at === null ? "" : "@" + link.dataset.at));
    document.getElementById(link.dataset.call).querySelector("summary").focus({ preventScroll: true });
  });
  addEventListener("popstate", follow);
  addEventListener("hashchange", follow);

  const tools = document.getElementById("tools");
  if (tools) {
    tools.hidden = false;
    const verdict = tools.querySelector("select"), text = tools.querySelector("input"), count = tools.querySelector("output");
    const sift = () => {
      const wanted = text.value.trim().toLowerCase();
      let seen = 0;
      for (const details of calls) {
        details.hidden = (verdict.value && details.dataset.verdict !== verdict.value)
          || (wanted && !details.querySelector("summary").textContent.toLowerCase().includes(wanted));
        seen += !details.hidden;
      }
      count.textContent = `${seen} of ${calls.length} calls`;
    };
    verdict.addEventListener("change", sift);
    text.addEventListener("input", sift);
    sift();
  }

  let pending = 0;
  addEventListener("resize", () => {
    clearTimeout(pending);
    pending = setTimeout(() => { for (const call of drawn.values()) call.wave.draw(); }, 150);
  });
  let forPrint = [];
  addEventListener("beforeprint", () => {
    forPrint = calls.filter((details) => !details.open && details.dataset.verdict !== "pass").slice(0, 20);
    for (const details of forPrint) { details.open = true; open(details); }
  });
  addEventListener("afterprint", () => { for (const details of forPrint) details.open = false; });
  follow();
})();
