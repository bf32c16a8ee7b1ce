// "web[01-97],db1": many hostnames in one line.

/** Fold hostnames that differ in one number; names are sorted as people count. */
export function fold(hostnames) {
  const groups = new Map();
  for (const name of new Set(hostnames)) {
    const found = /^(.*?)(\d+)(\D*)$/.exec(name);
    const key = found ? `${found[1]}\0${found[3]}\0${found[2].length}` : name;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(found ? { before: found[1], digits: found[2], after: found[3] } : { name });
  }
  return [...groups.values()].map(foldGroup).sort().join(",");
}

// All numbers of a group have the same width, so their order as text is the order of their values.
function foldGroup(members) {
  const [first] = members;
  if (members.length === 1) return first.name ?? first.before + first.digits + first.after;
  const numbers = members.map((member) => member.digits).sort();
  const ranges = [];
  for (let at = 0; at < numbers.length; ) {
    let end = at;
    while (end + 1 < numbers.length && BigInt(numbers[end + 1]) === BigInt(numbers[end]) + 1n) end += 1;
    ranges.push(at === end ? numbers[at] : `${numbers[at]}-${numbers[end]}`);
    at = end + 1;
  }
  return `${first.before}[${ranges.join(",")}]${first.after}`;
}
