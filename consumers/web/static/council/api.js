// The HTTP API. A failed call throws an error with the server's message and its `status`.

export const getModels = () => call("GET", "/api/models");
export const getStatus = () => call("GET", "/api/status");
export const getSessions = () => call("GET", "/api/sessions").then((answer) => answer.sessions);
export const getSession = (session) => call("GET", at(session));
export const openSession = (request) => call("POST", "/api/sessions", request);
export const cancelSession = (session) => call("POST", `${at(session)}/cancel`);
export const cancelMember = (session, index) => call("POST", `${at(session)}/members/${index}/cancel`);
export const keepSession = (session) => call("POST", `${at(session)}/keep`);
export const getPlayback = (session) => call("GET", `${at(session)}/playback`);
export const orderPlayback = (session, order) => call("POST", `${at(session)}/playback`, order);
// A what-if: {member, at, say, allow_remote}; answers like openSession.
export const openBranch = (session, request) => call("POST", `${at(session)}/what-if`, request);
// What the change of a branch has changed: {members, final}; members is null if its parent is gone.
export const getEffect = (session) => call("GET", `${at(session)}/effect`);
export const deleteSession = (session) => call("DELETE", at(session));

// The tokens of an answer in the bytes [from, to); if both are equal, the token that covers that byte.
export const getTokens = (session, member, from, to) =>
  call("GET", `${at(session)}/tokens?member=${member}&from=${from}&to=${to}`);

// A page of the library, the newest recordings first: {recordings, next}; `next` is the `after` of the next page.
export const getRecordings = (words, after) =>
  call("GET", `/api/recordings?words=${encodeURIComponent(words)}${after ? `&after=${encodeURIComponent(after)}` : ""}`);
export const getRecording = (name) => call("GET", recorded(name));
export const getDifference = (name, other) =>
  call("GET", `${recorded(name)}/difference?other=${encodeURIComponent(other)}`);
export const starRecording = (name, isStarred) => call(isStarred ? "PUT" : "DELETE", `${recorded(name)}/star`);
export const deleteRecording = (name) => call("DELETE", recorded(name));
export const replayRecording = (name, options) => call("POST", `${recorded(name)}/replay`, options);
export const importRecording = (file) => call("POST", `/api/recordings?name=${encodeURIComponent(file.name)}`, file);
export const fileOfRecording = (name) => `${recorded(name)}/file`;

const recorded = (name) => `/api/recordings/${encodeURIComponent(name)}`;
const at = (session) => `/api/sessions/${encodeURIComponent(session)}`;

// The body is an object or a file.
async function call(method, path, body) {
  const isFile = body instanceof Blob;
  const type = isFile ? "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body ? { "Content-Type": type } : {},
      body: isFile || !body ? body : JSON.stringify(body),
    });
  } catch {
    throw new Error("The council does not answer: check that it is running.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const error = new Error(answer.error?.message ?? `The council answered with HTTP status ${response.status}.`);
  error.status = response.status;
  throw error;
}
