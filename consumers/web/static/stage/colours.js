// The style sheet's colours in the forms that drawing needs.

import { colourNameOf } from "./marks.js";

export class Colours {
  ink;
  quiet;
  line;
  ground;
  ring;
  band;
  kinds;
  members;
  // Colours of light as [r, g, b].
  light;
  font;

  constructor(memberCount) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    [this.ink, this.quiet, this.line] = [colour("--ink"), colour("--quiet"), colour("--line")];
    [this.ground, this.ring, this.band] = [colour("--ground"), colour("--ring"), colour("--band")];
    this.kinds = {
      constructive: colour("--constructive"),
      neutral: colour("--neutral"),
      destructive: colour("--destructive"),
    };
    this.members = Array.from({ length: memberCount }, (_, index) => colour(colourNameOf(index)));
    this.light = { members: this.members.map(channels), cord: channels(colour("--cord")), gold: channels(this.ring) };
    this.font = colour("--sans");
  }
}

// "#rrggbb" as numbers.
function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}
