element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-row]');
  if (!button) return;
  element.querySelectorAll('[data-row]').forEach((each) => each.setAttribute('aria-pressed', each === button));
  trigger('picked', { row: Number(button.dataset.row) });
});
