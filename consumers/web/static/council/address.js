// The shown session is in the page's address, which can be reloaded and shared.
export function namedSession() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

// The browser's back button leads to the previous session.
export function showAddress(session) {
  if (namedSession() === session) return;
  const address = `#${encodeURIComponent(session)}`;
  if (namedSession()) location.assign(address);
  else location.replace(address);
}
