// The form of a method: calls it, shows the answer, and keeps the curl command as the form is.

const form = /** @type {HTMLFormElement} */ (document.getElementById('try'));
const request = /** @type {HTMLTextAreaElement} */ (document.getElementById('request'));
const curl = /** @type {HTMLElement} */ (document.getElementById('curl'));
const answer = /** @type {HTMLElement} */ (document.getElementById('answer'));
const button = /** @type {HTMLButtonElement} */ (form.querySelector('button[type=submit]'));

/** @param {string} text @returns {string} one word for a shell */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function showCommand() {
  const url = curl.dataset.url ?? '';
  curl.textContent = `curl --user you@example.org:password --data-urlencode request=${quoted(request.value)} ${quoted(url)}`;
}

/** @param {string} text */
function show(text) {
  answer.hidden = false;
  /** @type {HTMLElement} */ (answer.querySelector('pre')).textContent = text;
}

/** @param {string} text @returns {string} JSON for people, other text as it is */
function formatted(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

request.addEventListener('input', showCommand);
form.addEventListener('reset', () => setTimeout(showCommand));
form.addEventListener('submit', async event => {
  if ('native' in form.dataset) return; // bytes: the browser saves them
  event.preventDefault();
  button.disabled = true;
  try {
    const response = await fetch(location.href, { method: 'POST', body: new FormData(form), credentials: 'same-origin' });
    show(`${response.status} ${response.statusText}\n${formatted(await response.text())}`);
  } catch {
    show('The server cannot be reached. Check the connection, then try again.');
  } finally {
    button.disabled = false;
  }
});
showCommand();
