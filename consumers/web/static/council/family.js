// The sessions that what-ifs have connected: from the first answer to every branch of it.

import { getSession, openBranch } from "./api.js";

// So many sessions are shown; a person who tries one word after another reaches some dozens.
const MOST = 60;
const MOST_ABOVE = 32;

// The tree that contains this session, as its nodes in the order in which a tree shows them. A node has the facts of its
// session, `depth` from 1, `parent` (a node, null for the first one), `change` (the change of its parent's answer) and `names`.
// Of a first session that the council no longer has, isGone is true. `known` are sessions that have ended, by id: they are not
// fetched, so a branch that was made of them since then is not found; those that are fetched are added.
export async function familyOf(session, known = new Map()) {
  const read = async (id) => known.get(id) ?? keep(await sessionOrNull(id), known);
  const path = await pathTo((await read(session.session)) ?? factsOf(session), read);
  const nodes = [];
  const waiting = [{ shown: path[0], depth: 1, parent: null }];
  while (waiting.length > 0) {
    const { shown, depth, parent } = waiting.shift();
    const { parent: change, branches = [], ...facts } = shown;
    const node = { ...facts, depth, parent, change };
    nodes.push(node);
    // A replay of a branch is in no list of branches, nor is one that is older than those in the list.
    const next = path[depth - 1] === shown ? path[depth] : undefined;
    const room = Math.max(0, MOST - nodes.length - waiting.length);
    const ids = new Set([...branches.slice(0, room), ...(next ? [next.session] : [])]);
    const found = await Promise.all([...ids].map((id) => (id === next?.session ? next : read(id))));
    waiting.unshift(...found.filter(Boolean).map((each) => ({ shown: each, depth: depth + 1, parent: node })));
  }
  return nodes;
}

// The sessions from the one from which all others branch, as far as the council still has them, down to this one.
async function pathTo(shown, read) {
  const path = [shown];
  while (path[0].parent && path.length <= MOST_ABOVE) {
    const { session } = path[0].parent;
    path.unshift((await read(session)) ?? { session, isGone: true, names: [] });
  }
  return path;
}

// What a tree needs of a session: whole answers are long.
function factsOf({ session, status, replay_of, prefix, parent, branches, members }) {
  return { session, status, replay_of, prefix, parent, branches, names: members.map(({ name }) => name) };
}

function keep(session, known) {
  const facts = session && factsOf(session);
  if (facts?.status === "ended") known.set(facts.session, facts);
  return facts;
}

// Null for a session that the council no longer has; another failure is thrown.
async function sessionOrNull(id) {
  try {
    return await getSession(id);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

// Opens the branch again: the same change of the same answer or, if its parent is gone, of its own beginning. Answers like
// openSession; `options` are further fields of the request, which is that of the parent otherwise.
export async function openAgain({ session, parent, prefix }, options) {
  const above = await sessionOrNull(parent.session);
  const before = textBefore(prefix, parent.byte);
  const found = above ? above.members.findIndex(({ text }) => text.trimStart().startsWith(before)) : -1;
  const [from, member] = found < 0 ? [session, 0] : [parent.session, found];
  return openBranch(from, { member, at: parent.byte, say: parent.word, ...options });
}

// The text before a byte.
export function textBefore(text, byte) {
  return new TextDecoder().decode(new TextEncoder().encode(text).slice(0, byte));
}
