// Calls of the JSON API: the session is in a cookie, the CSRF token in localStorage, so that all tabs share one login.

/** What the server answered to a call that it did not do. */
export class CallFailed extends Error {
  /**
   * @param {string} code such as "user:loginFailed"; "" when no answer came
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/**
 * POST to a path below the endpoint, e.g. `post("/webmail/", "logout", undefined, token)`.
 * @param {string} base path of the endpoint
 * @param {string} path
 * @param {object} [body]
 * @param {string} [csrf]
 * @returns {Promise<any>} the answer, undefined when it has no content
 */
export async function post(base, path, body, csrf) {
  const headers = new Headers();
  if (body !== undefined) headers.set('Content-Type', 'application/json');
  if (csrf) headers.set('x-mox-csrf', csrf);
  let response;
  try {
    const content = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(base + path, { method: 'POST', headers, body: content, credentials: 'same-origin' });
  } catch {
    throw new CallFailed('', 'The server cannot be reached. Check the connection, then try again.');
  }
  if (response.ok) return response.status === 204 ? undefined : await response.json();
  if (response.headers.get('Content-Type')?.startsWith('application/json')) {
    const { error } = await response.json();
    throw new CallFailed(error.code, error.message);
  }
  throw new CallFailed('', (await response.text()).trim() || `The server answered ${response.status}.`);
}

/** @param {string} key @returns {string} the CSRF token, "" when there is none or storage is blocked */
export function csrfToken(key) {
  try {
    return localStorage.getItem(key) ?? '';
  } catch {
    return '';
  }
}

/** @param {string} key @param {string} token "" to remove it */
export function keepCsrfToken(key, token) {
  try {
    if (token) localStorage.setItem(key, token);
    else localStorage.removeItem(key);
  } catch {
    // Storage is blocked: pages work, calls will ask for a login.
  }
}
