-- Adds one router's rows to a bucket, once for each number that it gives them.
--
-- KEYS: the bucket, whose name ends with its time; the number that was added last for this router; the index of buckets.
-- ARGV: the number; seconds for which the bucket is kept; then a field and its counters, decimal and divided by blanks,
-- for each row. Rows may differ in how many they have, where a router of another version wrote one: what is missing is 0.
-- Buckets have no expiry: a server that runs full under `volatile-*` would drop them first, being unused for longest. What
-- is over is taken out as a new one begins.
local call, floor, format, sub = redis.call, math.floor, string.format, string.sub
local HALF, DIGITS = 1e12, 12

-- A decimal number as two, each with its sign: numbers here are exact up to 2^53 only, and money is in billionths.
local function halves(text)
  local sign = 1
  if sub(text, 1, 1) == '-' then
    sign, text = -1, sub(text, 2)
  end
  return sign * (tonumber(sub(text, 1, -DIGITS - 1)) or 0), sign * tonumber(sub(text, -DIGITS))
end

-- The sum of two decimal numbers, exact up to 27 digits.
local function sum(one, other)
  if #one < 16 and #other < 16 then
    return format('%.0f', tonumber(one) + tonumber(other))
  end
  local high, low = halves(one)
  local other_high, other_low = halves(other)
  low = low + other_low
  local carry = floor(low / HALF)
  high, low = high + other_high + carry, low - carry * HALF
  if high < 0 and low > 0 then
    high, low = high + 1, low - HALF
  end
  if high == 0 then
    return format('%.0f', low)
  end
  return format('%.0f%012.0f', high, math.abs(low))
end

if tonumber(call('GET', KEYS[2]) or 0) >= tonumber(ARGV[1]) then
  return 0
end
for at = 3, #ARGV, 2 do
  local known = call('HGET', KEYS[1], ARGV[at])
  local sums = ARGV[at + 1]
  if known then
    local added, parts = string.gmatch(sums, '%S+'), {}
    for count in string.gmatch(known, '%S+') do
      parts[#parts + 1] = sum(count, added() or '0')
    end
    for count in added do
      parts[#parts + 1] = count
    end
    sums = table.concat(parts, ' ')
  end
  call('HSET', KEYS[1], ARGV[at], sums)
end
local start = tonumber(string.match(KEYS[1], '%d+$'))
if call('ZADD', KEYS[3], 'NX', start, KEYS[1]) == 1 then
  -- By whichever clock is behind: one that is ahead must not take out what is still kept.
  local over = string.format('(%.0f', math.min(start, tonumber(call('TIME')[1])) - ARGV[2])
  for _, old in ipairs(call('ZRANGEBYSCORE', KEYS[3], '-inf', over, 'LIMIT', 0, 1000)) do
    call('DEL', old)
    call('ZREM', KEYS[3], old)
  end
end
call('SET', KEYS[2], ARGV[1], 'EX', 86400)
return 1
