"use strict";
// The page shows what the last event says, and asks for nothing else. Each element is made once and changed only where it differs, so that
// five hundred workers cost a few milliseconds a second, and what is selected or focused stays so.

const ROUNDS = ["basic circuits", "leaf aggregation", "node aggregation", "recursion tip", "scheduler", "final proof"];
const STATES = ["queued", "in_progress", "waiting", "failed"];
const COLOURS = { "": "Colours: as the system's", light: "Colours: light", dark: "Colours: dark" };
const RETRY_MS = 2000;
const byId = (id) => document.getElementById(id);
let last = null;

// What a node shows is remembered beside it: asking the document costs more than the comparison.
function setText(node, text) {
  if (node.shownText === text) return;
  node.shownText = text;
  node.textContent = text;
}

function setData(node, name, value) {
  node.shownData ??= {};
  if (node.shownData[name] === value) return;
  node.shownData[name] = value;
  node.dataset[name] = value;
}

function make(tag, name, parent) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (parent) parent.append(node);
  return node;
}

function duration(seconds) {
  if (seconds == null) return "";
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}

const words = (status) => status.replaceAll("_", " ");
const all = (counts) => counts.waiting + counts.queued + counts.in_progress + counts.successful + counts.failed;

// Keeps one child a key, in the order of the items.
function keep(parent, items, key, create, update) {
  parent.known ??= new Map();
  const kept = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    if (kept.has(name)) continue;
    kept.add(name);
    let child = parent.known.get(name);
    if (!child) {
      child = create(item);
      parent.known.set(name, child);
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const [name, child] of parent.known) {
    if (!kept.has(name)) {
      child.remove();
      parent.known.delete(name);
    }
  }
}

// A row with a heading and cells that know their column's name, for screens too narrow for columns.
function makeRow(names) {
  const row = make("tr");
  const heading = make("th", "", row);
  heading.scope = "row";
  for (const name of names) make("td", "", row).dataset.name = name;
  return row;
}

function makeBatch() {
  const row = makeRow(["state", "time", "left", ...ROUNDS]);
  row.cells[1].className = "state";
  make("span", "", row.cells[0]);
  make("div", "error", row.cells[0]);
  for (let i = 4; i < 10; i++) {
    const cell = row.cells[i];
    cell.className = "round";
    make("span", "", cell);
    const bar = make("div", "bar", cell);
    bar.setAttribute("role", "progressbar");
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-label", ROUNDS[i - 4]);
    for (const part of ["done", "run", "bad"]) make("i", part, bar);
  }
  return row;
}

function showRound(cell, counts, isProven) {
  const total = all(counts);
  const [label, bar] = cell.children;
  bar.hidden = total === 0;
  setText(label, total ? `${counts.successful}/${total}` : isProven ? "done" : "");
  if (!total) return;
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", counts.successful);
  const parts = [counts.successful, counts.in_progress, counts.failed];
  parts.forEach((part, i) => {
    const width = `${(100 * part) / total}%`;
    if (bar.shownWidths?.[i] !== width) bar.children[i].style.width = width;
    (bar.shownWidths ??= [])[i] = width;
  });
}

function showBatch(row, batch, timeLeft) {
  setData(row, "state", batch.status);
  const [name, error] = row.cells[0].children;
  setText(name, `${batch.number} of chain ${batch.chain_id}`);
  setText(error, batch.status === "failed" ? (batch.error ?? "") : "");
  setText(row.cells[1], words(batch.status));
  setText(row.cells[2], duration(batch.duration_seconds ?? batch.age_seconds));
  const left = timeLeft[`${batch.chain_id}/${batch.number}`];
  const about = batch.status === "in_progress" && left != null ? `about ${duration(left)}` : "";
  setText(row.cells[3], [about, toDeadline(batch, left)].filter(Boolean).join(", "));
  batch.rounds.forEach((counts, i) => showRound(row.cells[i + 4], counts, batch.status === "successful"));
}

// How a batch stands to its deadline.
function toDeadline(batch, left) {
  const margin = batch.deadline_margin_seconds;
  if (margin == null || batch.status === "cancelled") return "";
  if (batch.status === "successful") return margin < 0 ? `${duration(-margin)} late` : "in time";
  if (margin < 0) return `${duration(-margin)} late`;
  return `due in ${duration(margin)}${left != null && left > margin ? ", at risk" : ""}`;
}

function showStage(row, stage) {
  setText(row.cells[0], words(stage.stage));
  STATES.forEach((state, i) => setText(row.cells[i + 1], String(stage.jobs[state])));
  setText(row.cells[5], duration(stage.oldest_seconds));
}

function makeWorker() {
  const row = makeRow(["host", "state", "jobs", "memory", "runs now"]);
  row.cells[2].className = "state";
  row.cells[5].className = "wide";
  return row;
}

function runsNow(worker) {
  const shown = worker.running.slice(0, 3).map((job) => {
    const progress = job.progress > 0 ? `, ${Math.round(100 * job.progress)} %` : "";
    return `${job.job} of batch ${job.batch_number} of chain ${job.chain_id}, ${duration(job.seconds)}${progress}`;
  });
  const more = worker.jobs_held - shown.length;
  return shown.join("; ") + (more > 0 ? `; and ${more} more` : "");
}

function showWorker(row, worker) {
  setText(row.cells[0], worker.component.replaceAll(",", ", "));
  setText(row.cells[1], `${worker.host}, process ${worker.pid}`);
  setData(row.cells[2], "state", worker.state);
  setText(row.cells[2], worker.state);
  setText(row.cells[3], `${worker.jobs_held}/${worker.capacity}`);
  const budget = worker.memory_budget_bytes;
  setText(row.cells[4], budget == null ? "no limit" : `${(budget / 2 ** 30).toFixed(1)} GiB`);
  setText(row.cells[5], runsNow(worker));
}

function makeTrouble(trouble) {
  const item = make("li");
  make("strong", "", item).textContent = words(trouble.outcome);
  const where = trouble.chain_id == null ? "a deleted batch" : `batch ${trouble.batch_number} of chain ${trouble.chain_id}`;
  item.append(` ${trouble.job} of ${where}, job ${trouble.job_id}, on ${trouble.host} `);
  make("small", "", item);
  make("div", "error", item).textContent = trouble.error ?? "";
  return item;
}

function showChart(spans) {
  const most = Math.max(1, ...spans.map((span) => span.proofs));
  const width = 720 / Math.max(1, spans.length);
  const chart = byId("chart");
  while (chart.children.length > spans.length) chart.lastElementChild.remove();
  spans.forEach((span, i) => {
    let bar = chart.children[i];
    if (!bar) {
      bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      bar.append(document.createElementNS("http://www.w3.org/2000/svg", "title"));
      chart.append(bar);
    }
    const height = (118 * span.proofs) / most;
    const place = { x: i * width, y: 120 - height, width: width * 0.85, height };
    for (const [name, value] of Object.entries(place)) bar.setAttribute(name, value.toFixed(2));
    const begins = new Date(1000 * span.begins).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    setText(bar.firstChild, `${span.proofs} circuits in the five minutes from ${begins}`);
  });
  const sum = (part) => part.reduce((total, span) => total + span.proofs, 0);
  setText(byId("proven"), String(sum(spans.slice(-12))));
  setText(byId("chart-words"), `${sum(spans)} circuits in six hours, at most ${most === 1 && !sum(spans) ? 0 : most} in five minutes`);
}

function showWorkers() {
  const wanted = byId("filter").value.trim().toLowerCase();
  const isShown = (worker) => `${worker.component} ${worker.host} ${worker.state}`.toLowerCase().includes(wanted);
  const shown = last.workers.filter(isShown);
  keep(byId("worker-rows"), shown, (worker) => worker.id, makeWorker, showWorker);
  const total = last.workers.length;
  setText(byId("worker-words"), shown.length === total ? `${total} workers` : `${shown.length} of ${total} workers`);
}

function show(look) {
  last = look;
  const open = look.open_batches;
  setText(byId("open"), String((open.queued ?? 0) + (open.in_progress ?? 0)));
  setText(byId("failed"), String(open.failed ?? 0));
  const proofs = look.stages.find((stage) => stage.stage === "circuit_proof");
  setText(byId("queued"), String(proofs ? proofs.jobs.queued : 0));
  setText(byId("live"), String(look.workers.filter((worker) => worker.state === "live").length));
  const paused = [...look.paused.chains.map((chain) => `chain ${chain}`), ...look.paused.stages.map(words)];
  byId("paused").hidden = paused.length === 0;
  setText(byId("paused"), `Paused by an operator: ${paused.join(", ")}.`);
  byId("no-batches").hidden = look.batches.length > 0;
  const keyOf = (batch) => `${batch.chain_id}/${batch.number}`;
  keep(byId("batch-rows"), look.batches, keyOf, makeBatch, (row, batch) => showBatch(row, batch, look.time_left));
  const makeStage = () => makeRow(["queued", "in progress", "waiting", "failed", "oldest"]);
  keep(byId("stage-rows"), look.stages, (stage) => stage.stage, makeStage, showStage);
  showChart(look.throughput);
  showWorkers();
  byId("no-troubles").hidden = look.troubles.length > 0;
  // A job may fail more than once: its attempt is named by when it ended.
  const when = (trouble) => Math.round(look.now - trouble.seconds_ago);
  const troubleKey = (trouble) => `${trouble.job_id} ${when(trouble)}`;
  keep(byId("trouble-rows"), look.troubles, troubleKey, makeTrouble, (item, trouble) =>
    setText(item.querySelector("small"), `${duration(trouble.seconds_ago)} ago`));
}

function setState(state, text) {
  setData(byId("state"), "state", state);
  setText(byId("state"), text);
  document.querySelector("main").classList.toggle("stale", state !== "live");
}

function connect() {
  const events = new EventSource("events");
  events.onmessage = (event) => {
    const look = JSON.parse(event.data);
    if (look.trouble) return setState("trouble", look.trouble);
    setState("live", "live");
    show(look);
  };
  events.onerror = () => {
    setState("trouble", "the job monitor does not answer; trying again");
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
  };
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  setText(byId("theme"), COLOURS[theme]);
  localStorage.setItem("theme", theme);
}

const known = localStorage.getItem("theme");
setTheme(known in COLOURS ? known : "");
byId("theme").onclick = () => {
  const order = Object.keys(COLOURS);
  setTheme(order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length]);
};
byId("filter").oninput = () => last && showWorkers();
connect();
