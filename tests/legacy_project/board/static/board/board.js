var list = document.getElementById("notes");
var socket = new WebSocket("ws://" + window.location.host + "/board/lobby/");
function show(text) {
    var item = document.createElement("li");
    item.textContent = text;
    list.appendChild(item);
}
socket.onmessage = function (event) {
    var data = JSON.parse(event.data);
    (data.notes || [data.note]).forEach(show);
};
