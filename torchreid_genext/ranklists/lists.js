"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const kinds = Object.keys(data.kinds);
const byId = (id) => document.getElementById(id);

// Names come from files, so they enter the page as text only, never as markup.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const percent = (rate) => (100 * rate).toFixed(1) + " %";
const points = (change) => (change < 0 ? "−" : "+") + Math.abs(100 * change).toFixed(1);
const camera = (camid) => camid === null ? "?" : camid + 1; // as people and file names count them
const count = new Intl.NumberFormat("en").format;
const digits = { minimumSignificantDigits: 3, maximumSignificantDigits: 3, useGrouping: false };
const threeDigits = new Intl.NumberFormat("en", digits).format;
const short = (distance) => (distance === null ? "–" : threeDigits(distance));

// What is shown, kept in the address so that a view can be sent to others

const state = { chain: 0, against: -1, filter: "all", order: "gain", text: "", junk: true };

const FILTERS = {
  all: { label: "All", about: () => "every query", keeps: () => true },
  right: {
    label: "Right",
    about: () => `the first of the list is a match under ${name(state.chain)}`,
    keeps: (query) => isRight(query, state.chain),
  },
  wrong: {
    label: "Wrong",
    about: () => `the first of the list is none under ${name(state.chain)}`,
    keeps: (query) => isWrong(query, state.chain),
  },
  repaired: {
    label: "Repaired",
    about: () => `wrong under ${name(reference())}, right under ${name(state.chain)}`,
    keeps: (query) => outcome(query) === "repaired",
  },
  broken: {
    label: "Broken",
    about: () => `right under ${name(reference())}, wrong under ${name(state.chain)}`,
    keeps: (query) => outcome(query) === "broken",
  },
};

const ORDERS = {
  gain: { label: "Gain of AP", value: (query) => -change(query, state.chain) },
  loss: { label: "Loss of AP", value: (query) => change(query, state.chain) },
  lowest: { label: "Lowest AP", value: (query) => precision(query, state.chain) },
  highest: { label: "Highest AP", value: (query) => -precision(query, state.chain) },
  pid: { label: "Person", value: (query) => pid(query) },
};

const name = (chain) => data.chains[chain].name;
const pid = (query) => data.images[query.image][1];
const reference = () => (state.against < 0 ? 0 : state.against);
const isRight = (query, chain) => query.lists[chain].first === 1;
const isWrong = (query, chain) => query.lists[chain].first !== null && !isRight(query, chain);
const precision = (query, chain) => query.lists[chain].precision; // null without a match
const change = (query, chain) => precision(query, chain) - precision(query, reference());

function outcome(query) {
  const [before, after] = [isRight(query, reference()), isRight(query, state.chain)];
  if (before === after) return null;
  return after ? "repaired" : "broken";
}

function matchesText(query) {
  const [file, person, camid] = data.images[query.image];
  return state.text.toLowerCase().split(/\s+/).filter(Boolean).every((word) => {
    const seen = word.match(/^c(?:am(?:era)?)?(\d+)$/);
    if (seen) return Number(seen[1]) === camera(camid);
    if (/^-?\d+$/.test(word)) return String(person).startsWith(word) || file.startsWith(word);
    return file.toLowerCase().includes(word);
  });
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const chainOf = (key, otherwise) => {
    const found = data.chains.findIndex((chain) => chain.name === given.get(key));
    return found < 0 ? otherwise : found;
  };
  const best = data.chains.reduce((top, chain, at) => (chain.mAP > data.chains[top].mAP ? at : top), 0);
  state.chain = chainOf("chain", best);
  state.against = given.get("with") === "none" ? -1 : chainOf("with", state.chain ? 0 : -1);
  state.filter = given.get("queries") in FILTERS ? given.get("queries") : "all";
  state.order = given.get("order") in ORDERS ? given.get("order") : state.chain ? "gain" : "lowest";
  state.text = given.get("find") ?? "";
  state.junk = given.get("camera") !== "hidden";
}

function writeAddress() {
  const against = state.against < 0 ? "none" : name(state.against);
  const shown = { chain: name(state.chain), with: against, queries: state.filter, order: state.order };
  if (state.text) shown.find = state.text;
  if (!state.junk) shown.camera = "hidden";
  history.replaceState(null, "", "#" + new URLSearchParams(shown));
}

// Cards are filled when they come near the window

const cards = data.queries.map((query) => {
  const [file, person, camid] = data.images[query.image];
  const label = `Query: person ${person}, camera ${camera(camid)}, ${file}`;
  const card = make("article", { class: "query", tabindex: "0", "aria-label": label });
  card.query = query;
  return card;
});

const nearby = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => fill(entry.target)),
  { rootMargin: "1200px" },
);
cards.forEach((card) => nearby.observe(card));

function fill(card) {
  const shown = state.chain + " " + state.against;
  if (card.shown === shown) return;
  card.shown = shown;
  const chains = state.against < 0 ? [state.chain] : [state.against, state.chain];
  const rankings = make("div", {}, ...chains.map((chain) => ranking(card.query, chain)));
  card.replaceChildren(asked(card.query), rankings);
  card.classList.toggle("pair", chains.length > 1);
}

function asked(query) {
  const [file, person, camid] = data.images[query.image];
  const picture = thumbnail(query.image, `query, person ${person}`);
  picture.title = file;
  const words = [make("h2", {}, `pid ${person}`), make("div", {}, `camera ${camera(camid)}`)];
  const found = outcome(query);
  if (found) words.push(make("span", { class: "tag " + found }, found));
  return make("div", { class: "asked" }, picture, ...words);
}

function ranking(query, chain) {
  const list = query.lists[chain];
  const head = make("h3", {}, make("b", {}, name(chain)), verdict(list));
  if (list.first !== null) head.append(make("span", {}, `AP ${percent(list.precision)}`));
  if (list.first !== null && chain !== reference()) head.append(difference(change(query, chain)));
  const places = make("ol", { class: "places" });
  let rank = 0;
  for (const [image, kind, distance] of list.places) {
    places.append(place(image, kinds[kind], distance, kinds[kind] === "junk" ? 0 : ++rank));
  }
  return make("section", { class: "ranking" }, head, places);
}

function verdict({ first }) {
  if (first === null) return make("span", {}, "no match in the gallery");
  if (first === 1) return make("span", { class: "right" }, "✓ right");
  return make("span", { class: "wrong" }, `✗ first match at rank ${count(first)}`);
}

function difference(gained) {
  const sense = Math.abs(gained) < 5e-4 ? "" : gained > 0 ? "up" : "down";
  return make("span", { class: sense }, points(gained));
}

function place(image, kind, distance, rank) {
  const [file, person, camid] = data.images[image];
  const order = rank ? `rank ${rank}, ` : "";
  const about = `${order}person ${person}, camera ${camera(camid)}, distance ${short(distance)}`;
  const picture = thumbnail(image, `${kind}: ${about}`);
  const caption = make("span", { class: "caption" }, make("span", {}, short(distance)));
  if (rank) caption.prepend(make("span", {}, `c${camera(camid)}`)); // junk is of the query's camera
  const item = make("li", { class: "place " + kind, title: `${about}\n${file}\n${data.kinds[kind]}` });
  item.dataset.image = image;
  item.append(picture, caption);
  if (rank) item.append(make("span", { class: "rank", "aria-hidden": "true" }, String(rank)));
  return item;
}

const PLACEHOLDER =
  "data:image/svg+xml," +
  encodeURIComponent(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 128"><rect width="64" height="128" fill="#9aa3b022"/>' +
      '<path d="M22 54l20 20M42 54l-20 20" stroke="#8a919d" stroke-width="3" stroke-linecap="round"/></svg>',
  );

function thumbnail(image, words) {
  const source = data.images[image][3];
  const alt = source ? words : `${words} (the file cannot be read)`;
  return make("img", { src: source ?? PLACEHOLDER, alt, decoding: "async" });
}

// The same image in the other list

function pointAt(item) {
  document.querySelectorAll(".elsewhere").forEach((other) => other.classList.remove("elsewhere"));
  if (!item) return;
  const twins = item.closest(".query").querySelectorAll(`[data-image="${item.dataset.image}"]`);
  if (twins.length > 1) twins.forEach((twin) => twin.classList.add("elsewhere"));
}

byId("queries").addEventListener("pointerover", (event) => pointAt(event.target.closest(".place")));
byId("queries").addEventListener("pointerleave", () => pointAt(null));
