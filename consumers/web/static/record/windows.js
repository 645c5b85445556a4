// Windows and seconds: a window is 1/60 second, and its index counts from the session's origin.

export const WINDOWS_PER_SECOND = 60;

// The time at which a window ends, in seconds since the origin.
export const secondsAt = (window) => (window + 1) / WINDOWS_PER_SECOND;
