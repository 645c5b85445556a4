// The sessions that what-ifs have connected: from the first answer to every branch of it.

import { getSession, openBranch } from "./api.js";

// So many sessions are shown; a person who tries one word after another reaches some dozens.
const MOST = 60;
const MOST_ABOVE = 32;

// The tree that contains this session, as its nodes in the order in which a tree shows them. A node has the facts of its
// session, `depth` from 1, `parent` (a node, null for the first one), `change` (the change of its parent's answer) and `names`.
// Of a first session that the council no longer has, isGone is true.
export async function familyOf(session) {
  const root = await rootOf(session);
  const nodes = [];
  const waiting = [{ shown: root, depth: 1, parent: null }];
  while (waiting.length > 0 && nodes.length < MOST) {
    const { shown, depth, parent } = waiting.shift();
    const { members, parent: change, ...facts } = shown;
    const node = { ...facts, depth, parent, change, names: members?.map(({ name }) => name) ?? [] };
    nodes.push(node);
    const found = await Promise.all((shown.branches ?? []).slice(0, MOST).map((id) => sessionOrNull(id)));
    waiting.unshift(...found.filter(Boolean).map((each) => ({ shown: each, depth: depth + 1, parent: node })));
  }
  return nodes;
}

// The session from which all others branch, as far as the council still has them.
async function rootOf(session) {
  let shown = session;
  for (let above = 0; shown.parent && above < MOST_ABOVE; above += 1) {
    const parent = await sessionOrNull(shown.parent.session);
    if (!parent) return { session: shown.parent.session, isGone: true, branches: [shown.session] };
    shown = parent;
  }
  return shown;
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
// openSession; `options` are further fields of the request.
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
