// A skeleton whose joints are dragged, or moved by arrow keys; a double click or Delete hides or shows one.
const wide = 100, high = 200, step = 0.01;
let joints = JSON.parse(props.value);
let hidden = {}; // joint -> where it was
let held = null;
const node = (name, attributes) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
};
const place = (joint) => ({ x: joint[0] * wide, y: joint[1] * high });
const within = (value) => Math.min(1, Math.max(0, Math.round(value * 1e4) / 1e4));
const limb = ([from, to], row) => {
  if (!joints[from] || !joints[to]) return null;
  const a = place(joints[from]), b = place(joints[to]);
  return node('line', { x1: a.x, y1: a.y, x2: b.x, y2: b.y, stroke: `rgb(${props.colours[row]})`, class: 'limb' });
};
const dot = (joint, row) => {
  const ghost = !joint, at = place(joint || hidden[row] || [0.04 + 0.05 * row, 0.98]);
  const made = node('circle', {
    cx: at.x, cy: at.y, r: 2.6, fill: ghost ? 'none' : `rgb(${props.colours[row]})`, 'data-joint': row,
    class: ghost ? 'joint ghost' : 'joint', tabindex: 0, role: 'button',
    'aria-label': `${props.names[row]}${ghost ? ', hidden' : ''}`,
  });
  const title = node('title', {});
  title.textContent = `${props.names[row]}${ghost ? ' (hidden)' : ''}`;
  made.append(title);
  return made;
};
const draw = () => {
  const svg = element.querySelector('svg');
  const focused = document.activeElement && document.activeElement.dataset && document.activeElement.dataset.joint;
  svg.replaceChildren(...props.limbs.map(limb).filter(Boolean), ...joints.map(dot));
  if (focused !== undefined && focused !== null) {
    const again = svg.querySelector(`[data-joint="${focused}"]`);
    if (again) again.focus({ preventScroll: true });
  }
};
const tell = () => trigger('moved', { skeleton: JSON.stringify(joints) });
const toggle = (row) => {
  if (joints[row]) { hidden[row] = joints[row]; joints[row] = null; }
  else joints[row] = hidden[row] || [0.04 + 0.05 * row, 0.98];
  draw();
  tell();
};
const rowOf = (event) => {
  const found = event.target.closest('[data-joint]');
  return found ? Number(found.dataset.joint) : null;
};
element.addEventListener('pointerdown', (event) => {
  held = rowOf(event);
  if (held === null) return;
  event.preventDefault();
  element.querySelector(`[data-joint="${held}"]`).focus({ preventScroll: true });
});
const move = (event) => {
  if (held === null || !joints[held]) return;
  const frame = element.querySelector('svg').getBoundingClientRect();
  joints[held] = [within((event.clientX - frame.left) / frame.width), within((event.clientY - frame.top) / frame.height)];
  held_moved = true;
  draw();
};
let held_moved = false;
const drop = () => {
  if (held !== null && held_moved) tell();
  held = null;
  held_moved = false;
};
window.addEventListener('pointermove', move);
window.addEventListener('pointerup', drop);
window.addEventListener('pointercancel', drop);
element.addEventListener('dblclick', (event) => {
  const row = rowOf(event);
  if (row !== null) toggle(row);
});
element.addEventListener('keydown', (event) => {
  const row = rowOf(event);
  if (row === null) return;
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key === 'Delete' || event.key === ' ') { event.preventDefault(); toggle(row); return; }
  if (!ways[event.key] || !joints[row]) return;
  event.preventDefault();
  joints[row] = joints[row].map((share, axis) => within(share + step * ways[event.key][axis] / (axis + 1)));
  draw();
});
element.addEventListener('keyup', (event) => {
  if (event.key.startsWith('Arrow') && rowOf(event) !== null) tell();
});
watch('value', () => { joints = JSON.parse(props.value); hidden = {}; draw(); });
draw();
