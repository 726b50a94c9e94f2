// From the state to the page

const comparesNothing = () => state.chain === reference();

function update(changes) {
  const anchor = "chain" in changes || "against" in changes ? cardInView() : null;
  Object.assign(state, changes);
  const kept = show();
  if (byId("bar").getBoundingClientRect().top > 0) return; // the list begins in view
  const target = kept.includes(anchor) ? anchor : kept[0];
  (target ?? byId("queries")).scrollIntoView();
}

function show() {
  if (comparesNothing() && ["repaired", "broken"].includes(state.filter)) state.filter = "all";
  const found = cards.filter((card) => matchesText(card.query));
  const kept = found.filter((card) => FILTERS[state.filter].keeps(card.query)).sort(inOrder);
  const held = document.activeElement;
  byId("queries").replaceChildren(...(kept.length ? kept : [nothing()]));
  if (kept.includes(held)) held.focus({ preventScroll: true });
  kept.forEach((card) => (nearby.unobserve(card), nearby.observe(card))); // those in view are filled anew
  showControls(found.map((card) => card.query));
  byId("count").replaceChildren(make("b", {}, count(kept.length)), ` of ${count(cards.length)}`);
  document.body.classList.toggle("no-junk", !state.junk);
  writeAddress();
  return kept;
}

// Queries without a match come last.
function inOrder({ query: one }, { query: other }) {
  const unmatched = (query) => query.lists[0].first === null;
  const value = ORDERS[state.order].value;
  return unmatched(one) - unmatched(other) || value(one) - value(other) || pid(one) - pid(other);
}

function nothing() {
  const button = make("button", { type: "button" }, "Show all");
  button.addEventListener("click", () => update({ filter: "all", text: "" }));
  return make("p", { class: "empty" }, "No query fits.", button);
}

function showControls(found) {
  for (const [key, filter] of Object.entries(FILTERS)) {
    const input = byId("filter-" + key);
    input.checked = key === state.filter;
    input.disabled = comparesNothing() && ["repaired", "broken"].includes(key);
    input.parentNode.title = input.disabled ? "needs another chain than the first" : filter.about();
    input.parentNode.querySelector("small").textContent = count(found.filter(filter.keeps).length);
  }
  for (const key of ["chain", "against", "order"]) {
    byId(key).value = state[key];
    byId(key).title = byId(key).selectedOptions[0].text; // the field may be too narrow for it
  }
  byId("junk").checked = state.junk;
  if (byId("text").value !== state.text) byId("text").value = state.text;
  [...byId("chains").rows].forEach((row, at) => row.setAttribute("aria-current", at === state.chain));
}

// What never changes

function introduce() {
  byId("title").textContent = `${data.label} on ${data.dataset}`;
  const [listed, all, gallery] = [cards.length, data.num_query, data.num_gallery].map(count);
  const which = cards.length < data.num_query ? `${listed} of ${all} queries` : `All ${all} queries`;
  byId("facts").textContent =
    `${which} with the first ${data.depth} of ${gallery} gallery images, ranked by ${data.metric} distance ` +
    `or by what a chain puts in its place. Point at an image to find it in the other list.`;
  const missing = data.images.filter((image) => image[3] === null).length;
  if (missing) {
    const words = `${count(missing)} ${missing === 1 ? "image" : "images"} could not be read.`;
    byId("facts").after(make("p", { class: "warning" }, words));
  }
  const meanings = { match: "match", miss: "someone else", distractor: "distractor", junk: "same camera, not counted" };
  for (const [kind, meaning] of Object.entries(meanings)) {
    byId("legend").append(make("li", { title: data.kinds[kind] }, make("i", { class: kind }), meaning));
  }
}

function tabulate() {
  const heads = ["chain", "mAP", "rank-1", "repaired", "broken"].map((word) => make("th", { scope: "col" }, word));
  byId("columns").append(make("tr", {}, ...heads));
  byId("basis").textContent = `Over all ${count(data.num_query)} queries; repaired and broken against ${name(0)}.`;
  data.chains.forEach((chain, at) => {
    const button = make("button", { type: "button", title: `${chain.name}\n${chain.protocol}` }, chain.name);
    button.addEventListener("click", () => update({ chain: at }));
    const rates = [chain.mAP, chain.rank1].map((rate) => make("td", {}, percent(rate)));
    const changes = ["repaired", "broken"].map((key) => number(at ? chain[key] : null));
    byId("chains").append(make("tr", {}, make("th", { scope: "row" }, button), ...rates, ...changes));
  });
}

function number(value) {
  return value ? make("td", {}, count(value)) : make("td", { class: "none" }, value === null ? "–" : "0");
}

function equip() {
  for (const [key, filter] of Object.entries(FILTERS)) {
    const input = make("input", { type: "radio", name: "filter", id: "filter-" + key });
    input.addEventListener("change", () => update({ filter: key }));
    const words = make("span", {}, filter.label, make("small"));
    byId("filters").append(make("label", {}, input, words));
  }
  data.chains.forEach((chain, at) => {
    byId("chain").append(make("option", { value: at }, chain.name));
    byId("against").append(make("option", { value: at }, chain.name));
  });
  byId("against").prepend(make("option", { value: -1 }, "nothing"));
  for (const [key, order] of Object.entries(ORDERS)) byId("order").append(make("option", { value: key }, order.label));
  byId("chain").addEventListener("change", (event) => update({ chain: Number(event.target.value) }));
  byId("against").addEventListener("change", (event) => update({ against: Number(event.target.value) }));
  byId("order").addEventListener("change", (event) => update({ order: event.target.value }));
  byId("text").addEventListener("input", (event) => update({ text: event.target.value }));
  byId("junk").addEventListener("change", (event) => update({ junk: event.target.checked }));
  byId("keys").addEventListener("click", () => byId("help").showModal());
  byId("bar").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(() => {
    document.documentElement.style.setProperty("--bar", byId("bar").offsetHeight + "px");
  }).observe(byId("bar"));
}

// Keys

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  c: () => update({ chain: (state.chain + 1) % data.chains.length }),
  C: () => update({ chain: (state.chain + data.chains.length - 1) % data.chains.length }),
  o: () => update({ order: after(Object.keys(ORDERS), state.order) }),
  s: () => update({ junk: !state.junk }),
  "/": () => byId("text").select(),
  "?": () => byId("help").showModal(),
};
Object.keys(FILTERS).forEach((key, at) => {
  KEYS[at + 1] = () => byId("filter-" + key).disabled || update({ filter: key });
});

const after = (keys, key) => keys[(keys.indexOf(key) + 1) % keys.length];

function cardInView() {
  const below = byId("bar").getBoundingClientRect().bottom;
  return [...document.querySelectorAll(".query")].find((card) => card.getBoundingClientRect().bottom > below + 40);
}

function step(by) {
  const shown = [...document.querySelectorAll(".query")];
  const at = shown.indexOf(document.activeElement.closest(".query"));
  const next = at < 0 ? cardInView() : shown[at + by];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target.id === "text") {
    update({ text: "" });
    event.target.blur();
  }
  const typing = event.target.matches("input[type=search], select, dialog *");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});

introduce();
tabulate();
equip();
readAddress();
show();
addEventListener("hashchange", () => (readAddress(), show()));
