-- Post 64 bytes to /echo again and again.
local here = debug.getinfo(1, "S").source:match("@?(.*/)")
dofile(here .. "hello.lua")

wrk.method = "POST"
wrk.path = "/echo"
wrk.body = string.rep("0123456789abcdef", 4)
