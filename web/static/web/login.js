// The login form: two steps, then the page that was asked for is loaded again.

import { CallFailed, keepCsrfToken, post } from './calls.js';

const form = /** @type {HTMLFormElement} */ (document.getElementById('login'));
const username = /** @type {HTMLInputElement} */ (document.getElementById('username'));
const password = /** @type {HTMLInputElement} */ (document.getElementById('password'));
const problem = /** @type {HTMLElement} */ (document.getElementById('problem'));
const button = /** @type {HTMLButtonElement} */ (form.querySelector('button'));
const base = form.dataset.base ?? '/';

// What follows a message of the server, to help with it.
const HINTS = new Map([
  ['invalid credentials', 'Check the name, and mind upper and lower case in the password.'],
  ['too many authentication attempts', 'Wait a minute, then try again.'],
]);

form.addEventListener('submit', async event => {
  event.preventDefault();
  if (button.disabled) return;
  setBusy(true);
  problem.hidden = true;
  password.removeAttribute('aria-invalid');
  try {
    const { login_token } = await post(base, 'login/prepare');
    const body = { login_token, username: username.value, password: password.value };
    const { csrf_token } = await post(base, 'login', body);
    keepCsrfToken(form.dataset.csrfKey ?? '', csrf_token);
    const url = new URL(location.href);
    url.searchParams.delete('login');
    history.replaceState(null, '', url);
    location.reload();
  } catch (error) {
    setBusy(false);
    show(error);
  }
});

/** @param {boolean} busy */
function setBusy(busy) {
  button.disabled = busy;
  button.setAttribute('aria-busy', String(busy));
  button.textContent = busy ? 'Logging in…' : 'Login';
}

/** @param {unknown} error */
function show(error) {
  const text = error instanceof Error ? error.message : String(error);
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  const hint = HINTS.get(text);
  const message = /** @type {HTMLElement} */ (problem.querySelector('span'));
  message.textContent = hint ? `${sentence}. ${hint}` : sentence;
  problem.hidden = false;
  if (error instanceof CallFailed && error.code === 'user:loginFailed') {
    password.setAttribute('aria-invalid', 'true');
    password.select();
  }
  password.focus();
}
