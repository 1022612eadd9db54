-- Recorded responses of all scopes, each call one step. All keys share a hash tag.
-- KEYS[1]: sorted set of expiries by key, `PREFIX:x`; the others are named after it:
--   u sorted set of last uses by key, z hash key -> "size group", b bytes, n last number,
--   r:KEY the record, g:GROUP sorted set of numbers by key, v:GROUP hash key -> what is beside it.
-- Records expire by themselves too, so that a full server under `volatile-*` drops these first.
-- Every call that looks or adds also returns how many records there are, and their bytes.
local base = string.sub(KEYS[1], 1, -2)
local op, now, key = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local function drop(one)
  local info = redis.call('HGET', base .. 'z', one)
  if info then
    local size, group = string.match(info, '^(%d+) (.*)$')
    redis.call('DECRBY', base .. 'b', size)
    if group ~= '' then
      redis.call('ZREM', base .. 'g:' .. group, one)
      redis.call('HDEL', base .. 'v:' .. group, one)
    end
    redis.call('HDEL', base .. 'z', one)
  end
  redis.call('ZREM', KEYS[1], one)
  redis.call('ZREM', base .. 'u', one)
  redis.call('DEL', base .. 'r:' .. one)
end

local function purge()
  for _, one in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do drop(one) end
end

-- What `how` (GET, EXISTS) says of a record, unless it has expired or is gone: then all that is left of it goes.
local function alive(one, how)
  local expires = redis.call('ZSCORE', KEYS[1], one)
  if not expires then return nil end
  local said = tonumber(expires) > now and redis.call(how, base .. 'r:' .. one)
  if not said or said == 0 then drop(one) return nil end
  return said
end

if op == 'find' then
  local group, after, most = ARGV[4], ARGV[5], ARGV[6]
  local near = {}
  local record = alive(key, 'GET')
  if record then
    redis.call('ZADD', base .. 'u', now, key)
  elseif group ~= '' then
    local found = redis.call('ZRANGEBYSCORE', base .. 'g:' .. group, '(' .. after, '+inf', 'WITHSCORES',
      'LIMIT', 0, most)
    for at = 1, #found, 2 do
      if alive(found[at], 'EXISTS') then
        table.insert(near, found[at + 1])
        table.insert(near, found[at])
        table.insert(near, redis.call('HGET', base .. 'v:' .. group, found[at]) or '')
      end
    end
  end
  return {record or false, near, redis.call('ZCARD', KEYS[1]), redis.call('GET', base .. 'b') or '0'}
elseif op == 'add' then
  local expires, size, group, most, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]),
    tonumber(ARGV[8])
  local most_group, most_gone = tonumber(ARGV[9]), tonumber(ARGV[12])
  purge()
  drop(key)
  local kept = 0
  if size <= most_bytes and expires > now then
    local gone = 0
    while redis.call('ZCARD', KEYS[1]) >= most
      or tonumber(redis.call('GET', base .. 'b') or '0') + size > most_bytes do
      -- Where the bounds were lowered others wait for this server meanwhile: the next calls go on with it.
      if gone == most_gone then
        return {0, redis.call('ZCARD', KEYS[1]), redis.call('GET', base .. 'b') or '0'}
      end
      gone = gone + 1
      local least = redis.call('ZRANGE', base .. 'u', 0, 0)[1] or redis.call('ZRANGE', KEYS[1], 0, 0)[1]
      if not least then
        redis.call('SET', base .. 'b', 0)
        break
      end
      drop(least)
    end
    local lives_ms = math.ceil((expires - now) * 1000)
    redis.call('SET', base .. 'r:' .. key, ARGV[10], 'PX', lives_ms)
    redis.call('ZADD', KEYS[1], ARGV[4], key)
    redis.call('ZADD', base .. 'u', now, key)
    redis.call('HSET', base .. 'z', key, size .. ' ' .. group)
    redis.call('INCRBY', base .. 'b', size)
    if group ~= '' then
      local time = redis.call('TIME')
      local number = math.max(tonumber(time[1]) * 1000000 + tonumber(time[2]),
        tonumber(redis.call('GET', base .. 'n') or '0') + 1)
      redis.call('SET', base .. 'n', string.format('%.0f', number))
      redis.call('ZADD', base .. 'g:' .. group, string.format('%.0f', number), key)
      redis.call('HSET', base .. 'v:' .. group, key, ARGV[11])
      for _, one in ipairs(redis.call('ZRANGE', base .. 'g:' .. group, 0, -most_group - 1)) do
        redis.call('ZREM', base .. 'g:' .. group, one)
        redis.call('HDEL', base .. 'v:' .. group, one)
      end
    end
    kept = 1
  end
  return {kept, redis.call('ZCARD', KEYS[1]), redis.call('GET', base .. 'b') or '0'}
elseif op == 'remove' then
  drop(key)
  return {1, redis.call('ZCARD', KEYS[1]), redis.call('GET', base .. 'b') or '0'}
end
return redis.error_reply('ERR no such call')
