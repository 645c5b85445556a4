// All that this page has received of one session: the numbers of each window, and each member's texts.

import { Agreed } from "./agreed.js";
import { Answer } from "./answer.js";
import { Columns } from "./columns.js";

export class Record {
  constructor(session) {
    this.session = session;
    this.columns = new Columns(session.members.map((member) => member.name));
    this.answers = session.members.map(() => new Answer());
    this.thoughts = session.members.map(() => new Answer());
    // The text that the members write together; null if each writes its own.
    this.agreed = session.sync === "consensus" ? new Agreed() : null;
    this.prefixBytes = new TextEncoder().encode(session.prefix ?? "").length;
    for (const answer of this.answers) {
      answer.hasGiven = this.agreed !== null || this.prefixBytes > 0;
      answer.givenTo = this.prefixBytes;
    }
    this.begin(session);
  }

  // Sets the members' texts up to a window; frames add what follows.
  begin(session) {
    session.members.forEach((member, index) => {
      this.answers[index].begin(member.text);
      this.thoughts[index].begin(member.thinking);
    });
    // Each member that takes part has the whole text of the council.
    const texts = session.members.map((member) => member.text);
    this.agreed?.begin(texts.reduce((longest, text) => (text.length > longest.length ? text : longest), ""));
  }

  add(frame) {
    frame.members.forEach((member, index) => {
      this.answers[index].append(member.text);
      this.thoughts[index].append(member.thinking);
    });
    for (const token of frame.tokens) {
      const texts = token.lane === "answer" ? this.answers : this.thoughts;
      texts[token.member].add(token);
    }
    this.agreed?.take(frame);
    this.columns.add(frame);
    if (frame.final) for (const answer of this.answers) answer.givenTo = Infinity;
  }

  // The lengths of a member's answer and thinking at the end of a window, as offsets of the texts.
  lengthsAt(index, window) {
    if (window >= this.columns.last) return [this.answers[index].text.length, this.thoughts[index].text.length];
    const answered = this.columns.ofMember(index, "position_bytes", window);
    const thought = this.columns.ofMember(index, "thinkingEnd", window);
    return [answered ? this.answers[index].offsetAt(answered) : 0, this.thoughts[index].offsetAt(thought)];
  }

  // The end of the council's text at the end of a window, in bytes.
  agreedAt(window) {
    if (window >= this.columns.last) return this.agreed.byteAt(this.agreed.text.length);
    return Math.max(this.prefixBytes, this.columns.number("agreed_bytes", window) || 0);
  }
}
