// The states of a member, as frames name them.

export const STATES = ["waiting", "loading", "thinking", "answering", "held", "detached", "finished", "dropped"];

// True for a member that writes no more.
export const ended = (state) => state === "finished" || state === "dropped";

// True for a member of a council that writes one answer together, if the others decide with it.
export const takesPart = (state) => !["waiting", "loading", "thinking", "detached"].includes(state);
