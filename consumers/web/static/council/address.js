// The address keeps which session is shown: it can be loaded again, and shared.
export function namedSession() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

// From one session to the next, back leads to the one before.
export function showAddress(session) {
  if (namedSession() === session) return;
  const address = `#${encodeURIComponent(session)}`;
  if (namedSession()) location.assign(address);
  else location.replace(address);
}
