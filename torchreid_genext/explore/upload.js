// The picture itself is sent, as text; the server takes no names of files.
const most = 5e6;
const field = () => element.querySelector('input');
const say = (text) => { element.querySelector('.gx-said').textContent = text; };
const send = (file) => {
  if (!file) return;
  if (file.size > most) { say(`expected a file of at most 5 MB, got ${(file.size / 1e6).toFixed(1)} MB`); return; }
  const reader = new FileReader();
  reader.onload = () => {
    say(file.name);
    trigger('sent', { uri: reader.result.includes(',') ? reader.result : 'data:,' });
  };
  reader.readAsDataURL(file);
  field().value = '';
};
element.addEventListener('change', (event) => { event.stopPropagation(); send(event.target.files[0]); });
element.addEventListener('dragover', (event) => { event.preventDefault(); });
element.addEventListener('drop', (event) => { event.preventDefault(); send(event.dataTransfer.files[0]); });
