// A button with `data-logout` ends the session; then the page is loaded again, so that nothing of it stays in memory.

import { csrfToken, keepCsrfToken, post } from './calls.js';

const button = document.querySelector('[data-logout]');
if (button instanceof HTMLButtonElement) {
  button.addEventListener('click', async () => {
    const { base = '/', csrfKey = '' } = button.dataset;
    button.disabled = true;
    try {
      await post(base, 'logout', undefined, csrfToken(csrfKey));
    } catch {
      // This browser lost the token, or the session has ended already: a new login replaces it.
      location.assign(`${base}?login=again`);
      return;
    }
    keepCsrfToken(csrfKey, '');
    location.reload();
  });
}
