// The states of a member, as frames name them.

export const STATES = ["waiting", "loading", "thinking", "answering", "held", "detached", "finished", "dropped"];

// True for a member that writes no more.
export const ended = (state) => state === "finished" || state === "dropped";
