-- Adds one router's rows to a bucket, once for each number that it gives them.
--
-- KEYS: the bucket, and the number that was added last for this router.
-- ARGV: the number; seconds for which the bucket is kept; then a field and its counters, decimal and divided by blanks,
-- for each row. Rows may differ in how many they have, where a router of another version wrote one: what is missing is 0.
local call = redis.call
if tonumber(call('GET', KEYS[2]) or 0) >= tonumber(ARGV[1]) then
  return 0
end
for at = 3, #ARGV, 2 do
  local known = call('HGET', KEYS[1], ARGV[at])
  local sums = ARGV[at + 1]
  if known then
    local added, parts = string.gmatch(sums, '%S+'), {}
    for count in string.gmatch(known, '%S+') do
      parts[#parts + 1] = string.format('%.0f', tonumber(count) + tonumber(added() or 0))
    end
    for count in added do
      parts[#parts + 1] = count
    end
    sums = table.concat(parts, ' ')
  end
  call('HSET', KEYS[1], ARGV[at], sums)
end
call('EXPIRE', KEYS[1], ARGV[2])
call('SET', KEYS[2], ARGV[1], 'EX', 86400)
return 1
