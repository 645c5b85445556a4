// The HTTP API. What fails is thrown with the sentence that the server wrote for it, and its `status`.

export const getModels = () => call("GET", "/api/models");
export const getStatus = () => call("GET", "/api/status");
export const getSessions = () => call("GET", "/api/sessions").then((answer) => answer.sessions);
export const getSession = (session) => call("GET", at(session));
export const openSession = (request) => call("POST", "/api/sessions", request);
export const cancelSession = (session) => call("POST", `${at(session)}/cancel`);
export const cancelMember = (session, index) => call("POST", `${at(session)}/members/${index}/cancel`);
export const deleteSession = (session) => call("DELETE", at(session));

// Tokens of an answer in [from, to) bytes; the same twice: the one that covers that byte.
export const getTokens = (session, member, from, to) =>
  call("GET", `${at(session)}/tokens?member=${member}&from=${from}&to=${to}`);

const at = (session) => `/api/sessions/${encodeURIComponent(session)}`;

async function call(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch {
    throw new Error("The council does not answer: is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const error = new Error(answer.error?.message ?? `The council answered ${response.status}.`);
  error.status = response.status;
  throw error;
}
