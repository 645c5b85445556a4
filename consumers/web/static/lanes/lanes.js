// A lane for each member of the session that is shown.

import { Lane } from "./lane.js";

export class Lanes {
  #root;
  #handlers;
  #lanes = [];
  #record = null;

  constructor(root, handlers) {
    [this.#root, this.#handlers] = [root, handlers];
  }

  // The members of another session; what was shown before is gone.
  begin(record) {
    for (const lane of this.#lanes) lane.close();
    this.#record = record;
    const { names } = record.columns;
    // Another session may have been chosen, of which nothing is known yet.
    const handlers = {
      ...this.#handlers,
      onStop: (index) => this.#handlers.onStop(record.session.session, index),
    };
    this.#lanes = names.map(
      (name, index) => new Lane(name, index, record.answers[index], record.thoughts[index], handlers),
    );
    this.#root.replaceChildren(...this.#lanes.map((lane) => lane.element));
  }

  // All as it was at the end of the frame's window; only what runs now can be stopped.
  draw(frame, withNumbers) {
    const { columns } = this.#record;
    const now = withNumbers ? columns.frame(columns.last).members : [];
    // Members of a replay have said what they said.
    const canStop = !this.#record.session.replay_of;
    frame.members.forEach((member, index) => {
      this.#lanes[index].draw(member, this.#record.lengthsAt(index, frame.window_index), withNumbers);
      if (withNumbers) this.#lanes[index].showRunning(canStop && now[index].state !== "finished" && now[index].state !== "dropped");
    });
  }

  // What was released up to now, before the first frame came.
  drawTexts() {
    this.#lanes.forEach((lane, index) => {
      lane.answerView.draw(this.#record.answers[index].text.length);
    });
  }

  // In the answers of those that are compared the place where they parted: who has ended parted elsewhere.
  showParting({ diverged_at_bytes: byte, members }) {
    members.forEach(({ state }, index) => {
      if (state !== "finished" && state !== "dropped") this.#lanes[index].answerView.showFork(byte);
    });
  }

  reveal(byte) {
    this.#lanes.forEach((lane, index) => lane.answerView.reveal(this.#record.answers[index].offsetAt(byte)));
  }

  // Tokens of these bytes became known.
  refresh(index, range) {
    this.#lanes[index].answerView.refresh(range);
  }
}
