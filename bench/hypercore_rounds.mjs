// What hyperlog.py measures, done by hypercore: one JSON line in (entries, batch, value bytes, folder), one out.
import Hypercore from 'hypercore'
import crypto from 'crypto'
import fs from 'fs'
import path from 'path'
import readline from 'readline'

const seconds = start => Number(process.hrtime.bigint() - start) / 1e9
const size = folder => fs.readdirSync(folder, { recursive: true, withFileTypes: true })
  .filter(entry => entry.isFile()).reduce((sum, entry) => sum + fs.statSync(path.join(entry.parentPath ?? entry.path, entry.name)).size, 0)

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { entries, batch, valueBytes, singles, folder } = JSON.parse(line)
  const values = Array.from({ length: entries }, () => crypto.randomBytes(valueBytes))
  const source = new Hypercore(path.join(folder, 'source'))
  await source.ready()
  let start = process.hrtime.bigint()
  for (let at = 0; at < entries; at += batch) await source.append(values.slice(at, at + batch))
  const append = seconds(start)

  start = process.hrtime.bigint()
  const replica = new Hypercore(path.join(folder, 'replica'), source.key)
  await replica.ready()
  const one = source.replicate(true)
  const other = replica.replicate(false)
  one.pipe(other).pipe(one)
  await replica.update({ wait: true })
  await replica.download({ start: 0, end: entries, linear: true }).done()
  const replicate = seconds(start)
  if (replica.contiguousLength !== entries) throw new Error('incomplete')
  one.destroy()
  other.destroy()

  const single = new Hypercore(path.join(folder, 'single'))
  await single.ready()
  start = process.hrtime.bigint()
  for (let n = 0; n < singles; n++) await single.append(values[n])
  const alone = seconds(start)
  await source.close()
  await replica.close()
  await single.close()
  console.log(JSON.stringify({ append, replicate, alone, bytes: size(path.join(folder, 'source')) }))
}
process.exit(0)
