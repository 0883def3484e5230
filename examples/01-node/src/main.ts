import ms from "ms";

const text: string = process.argv[2] ?? "90m";
const milliseconds: number | undefined = ms(text);
if (milliseconds === undefined) {
  console.error(`not a duration: ${text}`);
  process.exit(1);
}
console.log(`${text} = ${milliseconds} ms = ${ms(milliseconds, { long: true })}`);
