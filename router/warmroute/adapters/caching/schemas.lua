-- Prompt schemas of all scopes, each call one step. All keys share a hash tag.
-- KEYS[1]: versions by last use, `PREFIX:x`; the others are named after it. A version is SCOPE/NAME/NUMBER:
--   m hash version -> record, u hash version -> uses, b hash scope -> bytes, k hash scope -> versions,
--   c hash SCOPE/NAME -> the last number that was given, n:SCOPE sorted set of names, v:SCOPE/NAME sorted set of
--   numbers, p:VERSION its document.
-- Nothing has an expiry: a server that runs full under `volatile-*` then drops records that can be made anew.
local base = string.sub(KEYS[1], 1, -2)
local op, now, scope, name = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local named = (scope or '') .. '/' .. (name or '')

local function newest()
  return redis.call('ZREVRANGE', base .. 'v:' .. named, 0, 0)[1]
end

local function row(number)
  local version = named .. '/' .. number
  local record = redis.call('HGET', base .. 'm', version)
  if not record then return nil end
  local uses = tonumber(redis.call('HGET', base .. 'u', version) or '0')
  return {tonumber(number), record, uses, redis.call('ZSCORE', KEYS[1], version) or '0'}
end

local function drop(number)
  local version = named .. '/' .. number
  local record = redis.call('HGET', base .. 'm', version)
  if not record then return false end
  redis.call('HINCRBY', base .. 'b', scope, -(cjson.decode(record)['size_bytes'] or 0))
  if redis.call('HINCRBY', base .. 'k', scope, -1) <= 0 then
    redis.call('HDEL', base .. 'k', scope)
    redis.call('HDEL', base .. 'b', scope)
  end
  redis.call('HDEL', base .. 'm', version)
  redis.call('HDEL', base .. 'u', version)
  redis.call('ZREM', KEYS[1], version)
  redis.call('DEL', base .. 'p:' .. version)
  redis.call('ZREM', base .. 'v:' .. named, number)
  if redis.call('EXISTS', base .. 'v:' .. named) == 0 then
    redis.call('ZREM', base .. 'n:' .. scope, name)
    redis.call('HDEL', base .. 'c', named)
  end
  return true
end

if op == 'add' then
  local digest, size, most, most_bytes, record, document = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
  local latest = newest()
  if latest then
    local known = row(latest)
    if known and cjson.decode(known[2])['digest'] == digest then
      redis.call('ZADD', KEYS[1], now, named .. '/' .. latest)
      known[4] = now
      return known
    end
  end
  local held = tonumber(redis.call('HGET', base .. 'k', scope) or '0')
  local bytes = tonumber(redis.call('HGET', base .. 'b', scope) or '0')
  if held >= tonumber(most) or bytes + tonumber(size) > tonumber(most_bytes) then return {held, bytes} end
  local number = redis.call('HINCRBY', base .. 'c', named, 1)
  local version = named .. '/' .. number
  redis.call('SET', base .. 'p:' .. version, document)
  redis.call('HSET', base .. 'm', version, record)
  redis.call('ZADD', base .. 'v:' .. named, number, number)
  redis.call('ZADD', base .. 'n:' .. scope, 0, name)
  redis.call('HINCRBY', base .. 'k', scope, 1)
  redis.call('HINCRBY', base .. 'b', scope, size)
  redis.call('ZADD', KEYS[1], now, version)
  return row(number)
elseif op == 'find' then
  local number = ARGV[5] ~= '0' and ARGV[5] or newest()
  local found = number and row(number)
  if not found then return {} end
  if ARGV[6] == '1' then
    found[3] = redis.call('HINCRBY', base .. 'u', named .. '/' .. number, 1)
    redis.call('ZADD', KEYS[1], now, named .. '/' .. number)
    found[4] = now
  end
  return found
elseif op == 'listed' then
  local after = ARGV[4] == '' and '-' or '(' .. ARGV[4]
  local found = {}
  for _, one in ipairs(redis.call('ZRANGEBYLEX', base .. 'n:' .. scope, after, '+', 'LIMIT', 0, ARGV[5])) do
    named = scope .. '/' .. one
    local latest = newest()
    local known = latest and row(latest)
    if known then table.insert(found, known) end
  end
  return found
elseif op == 'versions' then
  local found = {}
  for _, number in ipairs(redis.call('ZREVRANGE', base .. 'v:' .. named, 0, ARGV[5] - 1)) do
    local known = row(number)
    if known then table.insert(found, known) end
  end
  return found
elseif op == 'remove' then
  local numbers = ARGV[5] ~= '0' and {ARGV[5]} or redis.call('ZRANGE', base .. 'v:' .. named, 0, -1)
  local dropped = {}
  for _, number in ipairs(numbers) do
    if drop(number) then table.insert(dropped, tonumber(number)) end
  end
  return dropped
elseif op == 'all' then
  local found = {}
  for _, version in ipairs(redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', ARGV[3], 'LIMIT', 0, ARGV[4])) do
    local outer, number = string.match(version, '^(.*)/([^/]*)$')
    named = outer
    local known = row(number)
    if known then table.insert(found, known) end
  end
  return found
elseif op == 'lead' then
  local leader = redis.call('GET', base .. 'lead')
  if leader and leader ~= ARGV[3] then return 0 end
  redis.call('SET', base .. 'lead', ARGV[3], 'PX', ARGV[4])
  return 1
end
return redis.error_reply('ERR no such call')
