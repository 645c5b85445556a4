// The answers of the session that is shown: a lane for each member, and above them the answer that they write together.

import { ended } from "../record/states.js";
import { CouncilAnswer } from "./council.js";
import { Lane } from "./lane.js";

export class Lanes {
  #root;
  #handlers;
  #lanes = [];
  #record = null;
  #council;

  // handlers: those of Lane and, for the words of the council's answer, onWord and onChooseWord.
  constructor(root, handlers) {
    [this.#root, this.#handlers] = [root, handlers];
    this.#council = new CouncilAnswer(handlers);
  }

  // Begins another session: replaces all lanes.
  begin(record) {
    for (const lane of this.#lanes) lane.close();
    this.#record = record;
    const { names } = record.columns;
    // The page may already follow another session when this one's Stop is clicked.
    const handlers = {
      ...this.#handlers,
      onStop: (index) => this.#handlers.onStop(record.session.session, index),
    };
    this.#lanes = names.map(
      (name, index) => new Lane(name, index, record.answers[index], record.thoughts[index], handlers),
    );
    // The bytes that a what-if put into the answers.
    const { parent } = record.session;
    const change = parent ? { from: parent.byte, to: record.prefixBytes } : null;
    this.#council.begin(record, change);
    if (change) for (const lane of this.#lanes) lane.answerView.showChange(change);
    this.#root.replaceChildren(...this.#lanes.map((lane) => lane.element));
  }

  // Draws all lanes at the end of the frame's window. Only a member that runs now can be stopped.
  draw(frame, withNumbers) {
    const { columns } = this.#record;
    const now = withNumbers ? columns.frame(columns.last).members : [];
    // Members of a replay cannot be stopped.
    this.#council.draw(frame.window_index, withNumbers);
    const canStop = !this.#record.session.replay_of;
    frame.members.forEach((member, index) => {
      this.#lanes[index].draw(member, this.#record.lengthsAt(index, frame.window_index), withNumbers);
      if (withNumbers) this.#lanes[index].showRunning(canStop && !ended(now[index].state));
    });
  }

  // Draws the texts so far, before the first frame.
  drawTexts() {
    this.#council.drawText();
    this.#lanes.forEach((lane, index) => {
      lane.answerView.draw(this.#record.answers[index].text.length);
    });
  }

  // Shows the parting in the answers of the members that are compared; those that have ended parted elsewhere.
  showParting({ diverged_at_bytes: byte, members }) {
    members.forEach(({ state }, index) => {
      if (!ended(state)) this.#lanes[index].answerView.showFork(byte);
    });
  }

  reveal(byte) {
    this.#lanes.forEach((lane, index) => lane.answerView.reveal(this.#record.answers[index].offsetAt(byte)));
  }

  // Draws these bytes again, because their tokens became known.
  refresh(index, range) {
    this.#lanes[index].answerView.refresh(range);
  }
}
