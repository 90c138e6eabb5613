"""The Lua scripts of the limiter: each runs in Redis as one atomic step."""

from __future__ import annotations

from typing import Final

# A new connection. KEYS: the lease of the calling process, then counters: connection rate, failed logins, open
# connections. ARGV: token, prefix of lease keys, seconds of the lease, 1 if the process has open connections, how many
# rate counters, how many failure counters, lifetime of open counts; the limit of each counter; then their lifetimes.
# Gives 0 admitted, 1 rate, 2 failed logins, 3 open connections, -1 if the lease is gone though connections are open.
ADMIT: Final = """
local token, lease_prefix, has_open = ARGV[1], ARGV[2], ARGV[4]
local counters = #KEYS - 1
local rates, failures = tonumber(ARGV[5]), tonumber(ARGV[6])
if has_open == '1' and redis.call('EXISTS', KEYS[1]) == 0 then return -1 end

local function over(first, last)
  for i = first, last do
    if tonumber(redis.call('GET', KEYS[i + 1]) or 0) >= tonumber(ARGV[7 + i]) then return true end
  end
  return false
end

if over(1, rates) then return 1 end
for i = 1, rates do
  if redis.call('INCR', KEYS[i + 1]) == 1 then redis.call('EXPIRE', KEYS[i + 1], ARGV[7 + counters + i]) end
end
if over(rates + 1, rates + failures) then return 2 end
for i = rates + failures + 1, counters do
  local by_process, total = redis.call('HGETALL', KEYS[i + 1]), 0
  for j = 1, #by_process, 2 do
    if by_process[j] == token or redis.call('EXISTS', lease_prefix .. by_process[j]) == 1 then
      total = total + tonumber(by_process[j + 1])
    else
      redis.call('HDEL', KEYS[i + 1], by_process[j])
    end
  end
  if total >= tonumber(ARGV[7 + i]) then return 3 end
end
for i = rates + failures + 1, counters do
  redis.call('HINCRBY', KEYS[i + 1], token, 1)
  redis.call('EXPIRE', KEYS[i + 1], ARGV[7])
end
redis.call('SET', KEYS[1], 1, 'EX', ARGV[3])
return 0
"""

# Open connections came or went. KEYS: counters. ARGV: token, difference, lifetime.
ADJUST: Final = """
for i = 1, #KEYS do
  local known = redis.call('HEXISTS', KEYS[i], ARGV[1]) == 1
  if known or tonumber(ARGV[2]) > 0 then
    if redis.call('HINCRBY', KEYS[i], ARGV[1], ARGV[2]) <= 0 then redis.call('HDEL', KEYS[i], ARGV[1]) end
    redis.call('EXPIRE', KEYS[i], ARGV[3])
  end
end
return 0
"""

# Failed logins; KEYS: for each window the narrow, middle and wide counter. CHECK and COUNT: ARGV the limits;
# COUNT: then the lifetimes. CHECK gives 1 if allowed, plus 2 if a narrow counter has something to clear.
CHECK: Final = """
local allowed, has_failures = 1, 0
for i, value in ipairs(redis.call('MGET', unpack(KEYS))) do
  local count = tonumber(value or 0)
  if count >= tonumber(ARGV[i]) then allowed = 0 end
  if count > 0 and i % 3 == 1 then has_failures = 2 end
end
return allowed + has_failures
"""

COUNT: Final = """
for i, value in ipairs(redis.call('MGET', unpack(KEYS))) do
  if tonumber(value or 0) >= tonumber(ARGV[i]) then return 0 end
end
for i = 1, #KEYS do
  if redis.call('INCR', KEYS[i]) == 1 then redis.call('EXPIRE', KEYS[i], ARGV[#KEYS + i]) end
end
return 1
"""

CLEAR: Final = """
for i = 1, #KEYS, 3 do
  local narrow = tonumber(redis.call('GET', KEYS[i]) or 0)
  if narrow > 0 then
    redis.call('DEL', KEYS[i])
    for j = i + 1, i + 2 do
      if tonumber(redis.call('GET', KEYS[j]) or 0) <= narrow then
        redis.call('DEL', KEYS[j])
      else
        redis.call('DECRBY', KEYS[j], narrow)
      end
    end
  end
end
return 1
"""
