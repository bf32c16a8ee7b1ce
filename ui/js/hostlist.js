// "web[01-97],db1": many hostnames in one line.

/** Fold hostnames that differ in one number; names are sorted as people count. */
export function fold(hostnames) {
  const groups = new Map();
  for (const name of hostnames) {
    const found = /^(.*?)(\d+)(\D*)$/.exec(name);
    const key = found ? `${found[1]}\0${found[3]}\0${found[2].length}` : name;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(found ? { before: found[1], digits: found[2], after: found[3] } : { name });
  }
  return [...groups.values()].map(foldGroup).sort().join(",");
}

function foldGroup(members) {
  const [first] = members;
  if (members.length === 1) return first.name ?? first.before + first.digits + first.after;
  const numbers = [...new Set(members.map((member) => Number(member.digits)))].sort((a, b) => a - b);
  const text = (number) => String(number).padStart(first.digits.length, "0");
  const ranges = [];
  for (let at = 0; at < numbers.length; ) {
    let end = at;
    while (numbers[end + 1] === numbers[end] + 1) end += 1;
    ranges.push(at === end ? text(numbers[at]) : `${text(numbers[at])}-${text(numbers[end])}`);
    at = end + 1;
  }
  return `${first.before}[${ranges.join(",")}]${first.after}`;
}
